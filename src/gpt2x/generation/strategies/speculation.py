"""Speculation: a cheap guess of the next tokens, which the model checks all at once.

The text is that of the strategy which it speeds up, token for token: a draft is accepted if it is
the token that this strategy chooses at its column. Drawn tokens are a function of the text, the
seed and the column (`gpt2x.generation.random`), so this holds for sampling too (arXiv:2408.07978).

Rows have lengths of their own. A request has the last token of a row and its g drafts, so logits
come for k = g + 1 columns; a row with fewer drafts ignores what follows them. Processors see every
column as a row of its own, R x k of them, each with the text that ends before its column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.processors import Context
from gpt2x.generation.strategies.base import Needs, Outputs, Request, Settings, Strategy
from gpt2x.generation.strategies.rows import Greedy


class SpeculationState(NamedTuple):
    tokens: Array  # int [R, L]
    length: Array  # int [R], columns filled
    finished: Array  # bool [R]
    running: bool | Scalar  # whether any row is to continue
    drafts: Array  # int [R, g]
    count: Array  # int [R], the drafts that there are
    limit: Array  # int [R], how many there may be
    open: Array  # bool [R], whether the assistant goes on drafting
    drafting: bool | Scalar  # whether it does for any row
    scores: Any  # float [N, R, V] or ()
    logits: Any  # float [N, R, V] or ()


@dataclass(frozen=True, kw_only=True)
class Speculation(Strategy):
    """The part that all ways of drafting share: it checks the drafts.

    chooser: the strategy that it speeds up; it has the same `capacity`, `steps`, ... as this one.
    num_drafts: g, the most drafts of a row.
    """

    chooser: Greedy
    num_drafts: int

    @property
    def samples(self) -> bool:  # type: ignore[override]
        return self.chooser.samples

    @property
    def host(self) -> bool:
        # Texts of different lengths are given to functions of users one by one.
        chooser = self.chooser
        return chooser.host or chooser.processors.calls_users

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs(columns=self.num_drafts + 1)

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> SpeculationState:
        rows = ops.shape(settings.prompt)[0]
        none = ops.full((rows,), 0, "int")
        return SpeculationState(
            tokens=self.prompt_buffer(ops, settings, settings.fill),
            length=none + settings.prompt_length,
            finished=ops.full((rows,), False, "bool"),
            running=ops.scalar(True, "bool"),
            drafts=ops.full((rows, self.num_drafts), 0, "int"),
            count=none,
            limit=none + self.num_drafts,
            open=ops.full((rows,), False, "bool"),
            drafting=ops.scalar(False, "bool"),
            scores=self.record(ops, self.keep_scores, rows, vocab_size),
            logits=self.record(ops, self.keep_logits, rows, vocab_size),
        )

    def step(
        self, ops: Ops, state: SpeculationState, outputs: Outputs, settings: Settings
    ) -> tuple[SpeculationState, Request]:
        if len(outputs.logits.shape) == 2:  # after the prompt
            outputs = Outputs(*(x if isinstance(x, tuple) else x[:, None] for x in outputs))
        before, going = state.length, ~state.finished
        if self.host:
            state = self._accept_one_by_one(ops, state, outputs, going, settings)
        else:
            state, _ = self._accept(ops, state, outputs, 0, going, settings)
        unfinished = ~state.finished & (state.length < settings.max_length)
        state = state._replace(running=ops.any(unfinished))
        state = self.redraft(ops, state, state.length - before - 1, settings)
        return state, self.request(ops, state)

    def redraft(
        self, ops: Ops, state: SpeculationState, accepted: Array, settings: Settings
    ) -> SpeculationState:
        """Draft what follows the text, or begin to; `accepted` drafts [R] were right."""
        raise NotImplementedError

    def request(self, ops: Ops, state: SpeculationState) -> Request:
        last = ops.take_along(state.tokens, state.length[:, None] - 1)
        return Request(ops.concat([last, state.drafts], axis=1), state.length - 1)

    def settled(self, ops: Ops, state: SpeculationState) -> int | Scalar:
        longest = ops.max(state.length, axis=0)
        return -ops.max(-ops.where(state.finished, longest, state.length), axis=0)

    def sequences(self, ops: Ops, state: SpeculationState, settings: Settings) -> Array:
        return state.tokens

    def room(self, ops: Ops, state: SpeculationState, settings: Settings) -> Array:
        """Return how many drafts can be of use, int [R]: the model adds one more token."""
        left = ops.maximum(settings.max_length - 1 - state.length, 0)
        return ops.where(state.finished, 0, ops.minimum(left, self.num_drafts))

    # ---- checking -----------------------------------------------------------------------------

    def _accept_one_by_one(
        self,
        ops: Ops,
        state: SpeculationState,
        outputs: Outputs,
        going: Array,
        settings: Settings,
    ) -> SpeculationState:
        """Accept column by column, so that functions on the host see no draft that is wrong."""
        for column in range(ops.shape(outputs.logits)[1]):
            here = slice(column, column + 1)
            one = Outputs(*(x if isinstance(x, tuple) else x[:, here] for x in outputs))
            state, going = self._accept(ops, state, one, column, going, settings)
            if not bool(ops.any(going)):
                break
        return state

    def _accept(
        self,
        ops: Ops,
        state: SpeculationState,
        outputs: Outputs,
        first: int,
        going: Array,
        settings: Settings,
    ) -> tuple[SpeculationState, Array]:
        """Choose tokens for n columns, and append those up to the first that is not the draft.

        Args:
            ops, state, settings: of `step`.
            outputs: of n columns: logits [R, n, V].
            first: the number of the first of them in its request.
            going: bool [R], whether all drafts before were right.

        Returns the state, and for which rows the last of the columns had a draft that is right.
        """
        count = ops.shape(outputs.logits)[1]
        drafts = ops.concat([state.drafts, state.drafts[:, :1]], axis=1)  # the last has none
        drafts = drafts[:, first : first + count]
        numbers = ops.arange(count)
        columns = state.length[:, None] + numbers[None, :]  # [R, n]
        text = _written(ops, state.tokens, state.length, drafts, count)
        tokens, scores, _ = self._choose(ops, text, columns, outputs, settings)

        ends = self.is_eos(ops, tokens, settings)
        right = (tokens == drafts) & ((numbers + first)[None, :] < state.count[:, None]) & ~ends
        is_before = numbers[None, :, None] > numbers[None, None, :]
        stopped = ops.any(is_before & ~right[:, None, :], axis=-1)  # [R, n]
        taken = going[:, None] & ~stopped & (columns < settings.max_length)
        accepted = ops.sum(ops.cast(taken, "int"), axis=-1)  # [R]

        kept = [
            self._kept(ops, record, state.length - settings.prompt_length, new, accepted)
            for record, new in ((state.scores, scores), (state.logits, outputs.logits))
        ]
        state = state._replace(
            tokens=_written(ops, state.tokens, state.length, tokens, accepted),
            length=state.length + accepted,
            finished=state.finished | ops.any(taken & ends, axis=-1),
            scores=kept[0],
            logits=kept[1],
        )
        if self.criteria:
            stops = self._stopped(ops, state, accepted > 0, settings)
            state = state._replace(finished=state.finished | stops)
        return state, (taken & right)[:, -1] & ~state.finished

    def _choose(
        self,
        ops: Ops,
        text: Array,
        columns: Array,
        outputs: Outputs,
        settings: Settings,
    ) -> tuple[Array, Array, Array]:
        """Return the token of each column, int [R, n], and the scores that chose it, [R, n, V].

        And the scores before the filters of sampling, [R x n, V].
        """
        rows, count, vocab_size = ops.shape(outputs.logits)
        origins = ops.arange(rows * count) // count
        # A column that no text reaches chooses again what stands last.
        length = ops.minimum(ops.reshape(columns, (rows * count, 1)), settings.max_length - 1)
        unconditional = outputs.unconditional
        if not isinstance(unconditional, tuple):
            unconditional = ops.reshape(unconditional, (rows * count, vocab_size))
        context = Context(
            tokens=ops.take(text, origins),
            real=ops.take(settings.real, origins),
            length=length,
            unconditional=unconditional,
            repeats=count,
        )
        repeated = settings._replace(
            keys=tuple(ops.take(words, origins) for words in settings.keys)
        )
        logits = ops.reshape(outputs.logits, (rows * count, vocab_size))
        processed = self.chooser.processors(ops, logits, context, settings.processors)
        step = length - settings.prompt_length
        tokens, scores = self.chooser.choose(ops, processed, step, context, repeated)
        return (
            ops.reshape(tokens, (rows, count)),
            ops.reshape(scores, (rows, count, vocab_size)),
            processed,
        )

    def _kept(self, ops: Ops, record: Any, step: Array, new: Array, count: Array) -> Any:
        """Return a record [N, R, V] with the first count[r] of `new` [R, n, V] from step[r] on."""
        if isinstance(record, tuple):
            return record
        steps = ops.shape(record)[0]
        rows, width, vocab_size = ops.shape(new)
        offset = ops.arange(steps)[:, None] - step[None, :]  # [N, R]
        index = ops.minimum(ops.maximum(offset, 0), width - 1) + ops.arange(rows)[None, :] * width
        is_new = (offset >= 0) & (offset < count[None, :])
        found = ops.take(ops.reshape(new, (rows * width, vocab_size)), index)  # [N, R, V]
        return ops.where(is_new[:, :, None], found, record)

    def _stopped(
        self, ops: Ops, state: SpeculationState, asked: Array, settings: Settings
    ) -> Array:
        """Apply the criteria to each row that has a new token: bool [R]."""
        lengths, answers = ops.to_numpy(state.length), []
        for row, is_asked in enumerate(ops.to_numpy(asked)):
            if not is_asked:
                answers.append(ops.full((1,), False, "bool"))
                continue
            length = int(lengths[row])
            record = state.scores[:, row : row + 1] if self.keep_scores else ()
            text = state.tokens[row : row + 1, :length]
            steps = length - int(settings.prompt_length)
            answers.append(self.stopped_by_criteria(ops, text, record, steps))
        return ops.concat(answers, axis=0)


@dataclass(frozen=True, kw_only=True)
class PromptLookup(Speculation):
    """Draft what followed the last tokens where they stood before, in the prompt or the text.

    ngram_size: the most tokens that are looked for. A place where more of them match comes before
        one where fewer do, and an earlier place before a later one.
    """

    ngram_size: int

    def redraft(
        self, ops: Ops, state: SpeculationState, accepted: Array, settings: Settings
    ) -> SpeculationState:
        capacity = ops.shape(state.tokens)[1]
        length = state.length[:, None]  # [R, 1]
        tail, is_text = Context(state.tokens, settings.real, length).last(ops, self.ngram_size)
        columns = ops.arange(capacity)[None, :]
        # For each column: how many of the last tokens stand there and before it.
        matches = columns < length - 1  # [R, L]; something follows
        matched = ops.cast(matches & False, "float")
        for back in range(self.ngram_size):
            last = self.ngram_size - 1 - back
            index = ops.maximum(columns - back, 0) + 0 * length
            is_real = ops.take_along(ops.cast(settings.real, "int"), index) > 0
            same = ops.take_along(state.tokens, index) == tail[:, last : last + 1]
            matches = matches & same & is_real & is_text[:, last : last + 1] & (columns >= back)
            matched = matched + ops.cast(matches, "float")
        start = ops.argmax(matched) + 1
        followers = ops.arange(self.num_drafts)[None, :] + start[:, None]
        count = ops.minimum(state.length - start, self.room(ops, state, settings))
        return state._replace(
            drafts=ops.take_along(state.tokens, ops.minimum(followers, capacity - 1)),
            count=ops.where(ops.max(matched, axis=-1) > 0, count, 0),
        )


class Confidence(NamedTuple):
    """The values of `Assisted`.

    threshold: the probability of a draft below which its row drafts no more.
    """

    threshold: float | Scalar


@dataclass(frozen=True, kw_only=True)
class Assisted(Speculation):
    """Draft by an assistant: by its logits, and what else chooses a token of the model.

    Its requests have two tokens, the last of the drafted text: it has not run the last, nor, where
    all drafts were right, the one before. To run one again changes nothing.

    first_limit: how many drafts there may be at first.
    adapts: whether that number grows by 2 after drafts that were all right, and else shrinks by 1.
    """

    first_limit: int
    adapts: bool = False

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs(columns=self.num_drafts + 1, drafts=True)

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> SpeculationState:
        state = super().init(ops, settings, vocab_size)
        return state._replace(limit=state.count + min(self.first_limit, self.num_drafts))

    def redraft(
        self, ops: Ops, state: SpeculationState, accepted: Array, settings: Settings
    ) -> SpeculationState:
        limit = state.limit
        if self.adapts:
            grown = ops.minimum(limit + 2, self.num_drafts)
            changed = ops.where(accepted == state.count, grown, ops.maximum(limit - 1, 1))
            limit = ops.where(state.count > 0, changed, limit)
        state = state._replace(count=0 * state.count, limit=limit)
        goes_on = self.room(ops, state, settings) > 0
        return state._replace(open=goes_on, drafting=ops.any(goes_on))

    def draft_request(self, ops: Ops, state: SpeculationState) -> Request:
        start = state.length + state.count - 2
        columns = start[:, None] + ops.arange(2)[None, :]
        return Request(ops.take_along(self._drafted_text(ops, state), columns), start)

    def draft(
        self, ops: Ops, state: SpeculationState, outputs: Outputs, settings: Settings
    ) -> SpeculationState:
        logits = outputs.logits[:, None]
        # It has no second context: with its own logits there, guidance leaves them as they are.
        columns = (state.length + state.count)[:, None]
        tokens, _, processed = self._choose(
            ops,
            self._drafted_text(ops, state),
            columns,
            Outputs(logits, unconditional=logits),
            settings,
        )
        here = ops.arange(self.num_drafts)[None, :] == state.count[:, None]
        drafts = ops.where(here & state.open[:, None], tokens, state.drafts)
        count = state.count + ops.cast(state.open, "int")
        state = state._replace(drafts=drafts, count=count)

        probability = ops.take_along(ops.exp(ops.log_softmax(processed)), tokens)[:, 0]
        goes_on = state.open & (probability >= settings.own.threshold)
        goes_on = goes_on & ~self.is_eos(ops, tokens, settings)[:, 0]
        goes_on = goes_on & (count < ops.minimum(state.limit, self.room(ops, state, settings)))
        return state._replace(open=goes_on, drafting=ops.any(goes_on))

    def _drafted_text(self, ops: Ops, state: SpeculationState) -> Array:
        return _written(ops, state.tokens, state.length, state.drafts, state.count)


def _written(ops: Ops, text: Array, starts: Array, new: Array, count: int | Array) -> Array:
    """Return text [R, L] with the first `count` (or count[r]) of `new` [R, n] from starts[r] on."""
    offset = ops.arange(ops.shape(text)[1])[None, :] - starts[:, None]  # [R, L]
    index = ops.minimum(ops.maximum(offset, 0), ops.shape(new)[1] - 1)
    limit = count if isinstance(count, int) else count[:, None]
    is_new = (offset >= 0) & (offset < limit)
    return ops.where(is_new, ops.take_along(new, index), text)
