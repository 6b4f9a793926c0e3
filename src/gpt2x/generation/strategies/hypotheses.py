"""What diverse and constrained beam search share: lists of finished texts, the hypotheses.

The rules are those of transformers' `BeamSearchScorer` (up to 4.49 in its library), which differ
from those of `BeamSearch`. Every step takes the best ``max(2, 1 + E) * g`` continuations of the g
beams of a group. Those of the best g that end in an eos become hypotheses; the best g that do not
end continue. A group keeps its g best hypotheses, by ``sum of log-probabilities / generated tokens
** length_penalty``, and is done once no beam can beat them. When the loop ends, the open beams of
the other groups become hypotheses as well, and the best of all groups are returned.

Letters as in `strategies.base`, and: G groups, g = K / G beams of a group, P = B x G, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput
from gpt2x.generation.strategies.base import Outputs, Request, Settings, Strategy, context_of
from gpt2x.generation.strategies.beam import LOST

NEG_INF = float("-inf")
# Below every score, and above the -inf of what is not a hypothesis.
LOWEST = -1.0e30


class Hypotheses(NamedTuple):
    """The finished texts of each group, best first; of equal ones, the newest first."""

    tokens: Array  # int [P, g, L], with their eos
    ranks: Array  # float [P, g]: length-normalised scores
    origins: Array  # int [P, g, N]: at each step, the row that the text came from; -1 after it
    exists: Array  # bool [P, g]
    is_closed: Array  # bool [P, g]: whether it had not ended, and an eos was added


class HypothesesState(NamedTuple):
    running: bool | Scalar  # whether any group is to continue
    length: int | Scalar  # columns filled in `open_tokens`
    open_tokens: Array  # int [R, L]: the running beams
    open_scores: Array  # float [R]: their sums of log-probabilities
    open_ranks: Array  # float [R]: the same, normalised by length
    open_origins: Array  # int [R, N]
    hypotheses: Hypotheses
    done: Array  # bool [P]: whether a group's hypotheses are final
    progress: Any  # of the running beams through constraints, or ()
    scores: Any  # float [N, R, V] or ()
    logits: Any  # float [N, R, V] or ()


class Continuations(NamedTuple):
    """What a step finds for the g beams of one group in each prompt."""

    processed: Array  # float [B, g, V]: log-probabilities after all processors
    scores: Array  # float [B, C]: sums of log-probabilities of the candidates, best first
    tokens: Array  # int [B, C]
    rows: Array  # int [B, C]: the row that each continues
    ends: Array  # bool [B, C]: whether it ends in an eos
    next: Beams


class Beams(NamedTuple):
    """The beams of the next step, [B, g] each."""

    scores: Array
    tokens: Array
    rows: Array


@dataclass(frozen=True, kw_only=True)
class HypothesisBeams(Strategy):
    """Beam search that collects hypotheses; its subclasses choose how beams continue.

    num_beams: K.
    num_beam_groups: G.
    early_stopping: True ends a group once it has g hypotheses; False once its best candidate, at
        its present length, does not beat the worst of them; "never" once none can at any length.
    num_return_sequences: how many of the K best texts to return.
    """

    num_beams: int
    num_beam_groups: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | Literal["never"] = False

    reorders = True
    output_class: ClassVar[type[Any]] = GenerateBeamDecoderOnlyOutput
    unstreamable: ClassVar[str | None] = (
        "Beam search cannot be streamed: its texts change until it ends. Set num_beams=1."
    )

    @property
    def group_size(self) -> int:
        """The beams g of a group."""
        return self.num_beams // self.num_beam_groups

    # ---- what subclasses add ------------------------------------------------------------------

    def progress(self, ops: Ops, settings: Settings) -> Any:
        """Return the progress of the beams after the prompt; () if none is followed."""
        return ()

    def advanced(self, ops: Ops, progress: Any, beams: Beams, settings: Settings) -> Any:
        """Return the progress of the next beams."""
        return ()

    @property
    def may_stop(self) -> bool:
        """Whether a step may stop all beams of a prompt; those that do not end replace others."""
        return bool(self.criteria)

    def may_end(self, ops: Ops, progress: Any) -> Array | bool:
        """Return whether the text of each row may end: bool [R], or True for all."""
        return True

    def chosen(
        self,
        ops: Ops,
        state: HypothesesState,
        found: Continuations,
        totals: Array,
        settings: Settings,
    ) -> Beams:
        """Return the next beams of a group, given `found.next` and totals float [B, g, V]."""
        return found.next

    # ---- init and step ------------------------------------------------------------------------

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> HypothesesState:
        rows = ops.shape(settings.prompt)[0]
        groups, size = rows // self.group_size, self.group_size
        tokens = self.prompt_buffer(ops, settings, settings.fill)
        none = ops.full((groups, size), False, "bool")
        # The beams of a group start equal: only the first may be continued in the first step.
        first = ops.arange(rows) % size == 0
        return HypothesesState(
            running=ops.scalar(True, "bool"),
            length=settings.prompt_length,
            open_tokens=tokens,
            open_scores=ops.where(first, 0.0, ops.full((rows,), LOST, "float")),
            open_ranks=ops.full((rows,), LOST, "float"),
            open_origins=ops.full((rows, self.steps), -1, "int"),
            hypotheses=Hypotheses(
                tokens=ops.reshape(tokens + 0, (groups, size, self.capacity)),
                ranks=ops.full((groups, size), NEG_INF, "float"),
                origins=ops.full((groups, size, self.steps), -1, "int"),
                exists=none,
                is_closed=none,
            ),
            done=ops.full((groups,), False, "bool"),
            progress=self.progress(ops, settings),
            scores=self.record(ops, self.keep_scores, rows, vocab_size),
            logits=self.record(ops, self.keep_logits, rows, vocab_size),
        )

    def step(
        self, ops: Ops, state: HypothesesState, outputs: Outputs, settings: Settings
    ) -> tuple[HypothesesState, Request]:
        logits = outputs.logits
        rows, vocab_size = ops.shape(logits)
        step = state.length - settings.prompt_length

        # 1. Continue the groups, one after the other: each may see what those before it chose.
        groups: list[Continuations] = []
        for _ in range(self.num_beam_groups):
            groups.append(self._continue(ops, state, outputs, groups, settings))
        scores = ops.concat([group.processed for group in groups], axis=1)  # [B, K, V]
        scores = ops.reshape(scores, (rows, vocab_size))
        kept_scores, kept_logits = self.keep(ops, state, step, scores, logits)

        # 2. Of the best g of each group, those that end become hypotheses.
        hypotheses, done = self._finish(ops, state, groups, settings)

        # 3. The others continue.
        beams = Beams(
            *(
                ops.reshape(ops.concat([group.next[part] for group in groups], axis=1), (rows,))
                for part in range(3)
            )
        )
        length = state.length + 1
        tokens = ops.write(ops.take(state.open_tokens, beams.rows), state.length, beams.tokens, 1)
        generated = ops.cast(length - settings.prompt_length, "float")
        origins = ops.take(state.open_origins, beams.rows)
        state = HypothesesState(
            running=state.running,
            length=length,
            open_tokens=tokens,
            open_scores=beams.scores,
            open_ranks=beams.scores / generated**settings.length_penalty,
            open_origins=ops.write(origins, step, beams.rows, axis=1),
            hypotheses=hypotheses,
            done=done,
            progress=self.advanced(ops, state.progress, beams, settings),
            scores=kept_scores,
            logits=kept_logits,
        )
        if self.may_stop:
            state = self._end_stopped(ops, state, beams, settings)
        running = ops.any(~state.done) & (length < settings.max_length)
        return (
            state._replace(running=running),
            Request(beams.tokens[:, None], length - 1, beams.rows),
        )

    def _continue(
        self,
        ops: Ops,
        state: HypothesesState,
        outputs: Outputs,
        before: list[Continuations],
        settings: Settings,
    ) -> Continuations:
        """Continue the next group of every prompt, after those `before` it."""
        size, first = self.group_size, len(before) * self.group_size
        rows, vocab_size = ops.shape(outputs.logits)
        prompts = rows // self.num_beams
        start = (ops.arange(prompts) * self.num_beams)[:, None] + first  # [B, 1]
        own = ops.reshape(start + ops.arange(size)[None, :], (prompts * size,))

        # 1. Score every continuation of the group's beams: [B, g, V].
        outputs = outputs.taken(ops, own)
        context = context_of(ops.take(state.open_tokens, own), state.length, settings, outputs)
        context = context._replace(real=ops.take(settings.real, own))
        if before:
            tokens = ops.concat([group.next.tokens for group in before], axis=1)
            context = context._replace(chosen=ops.take(tokens, ops.arange(prompts * size) // size))
        scores = ops.log_softmax(outputs.logits)
        processed = self.processors(ops, scores, context, settings.processors)
        totals = processed + ops.take(state.open_scores, own)[:, None]

        # 2. Take the best C, and of these the best g that do not end.
        count = max(2, 1 + self.num_eos) * size
        flat = ops.reshape(totals, (prompts, size * vocab_size))
        # If too few are left, those of -inf are taken too: finite, they are in order.
        _, index = ops.top_k(ops.maximum(flat, LOWEST), count)
        scores = ops.take_along(flat, index)
        tokens, rows = index % vocab_size, start + index // vocab_size
        ends = self.is_eos(ops, tokens, settings)
        places = ops.arange(count)[None, :] + ops.cast(ends, "int") * count
        _, open_ones = ops.top_k(-places, size)
        beams = Beams(*(ops.take_along(part, open_ones) for part in (scores, tokens, rows)))
        grouped = (prompts, size, vocab_size)
        found = Continuations(ops.reshape(processed, grouped), scores, tokens, rows, ends, beams)
        beams = self.chosen(ops, state, found, ops.reshape(totals, grouped), settings)

        # 3. A group that is done writes padding, as copies of its first beam in the first prompt.
        done = ops.reshape(state.done, (prompts, self.num_beam_groups))[:, len(before)][:, None]
        beams = Beams(
            ops.where(done, 0.0, beams.scores),
            ops.where(done, settings.fill, beams.tokens),
            ops.where(done, first, beams.rows),
        )
        return found._replace(next=beams)

    def _finish(
        self,
        ops: Ops,
        state: HypothesesState,
        groups: list[Continuations],
        settings: Settings,
    ) -> tuple[Hypotheses, Array]:
        """Return the hypotheses, and which groups are done: bool [P]."""
        if self.num_eos == 0:
            return state.hypotheses, state.done
        size = self.group_size
        scores = self._by_group(ops, [group.scores[:, :size] for group in groups])
        rows = self._by_group(ops, [group.rows[:, :size] for group in groups])
        ends = self._by_group(ops, [group.ends[:, :size] for group in groups])
        generated = ops.cast(state.length + 1 - settings.prompt_length, "float")
        ranks = scores / generated**settings.length_penalty  # [P, g]
        eos = ops.full(ops.shape(rows), 0, "int") + settings.eos[0]
        new = Hypotheses(
            tokens=ops.write(ops.take(state.open_tokens, rows), state.length, eos, axis=2),
            ranks=ranks,
            origins=ops.write(
                ops.take(state.open_origins, rows),
                state.length - settings.prompt_length,
                rows,
                axis=2,
            ),
            exists=self._ending(ops, state, ends, rows) & ~state.done[:, None],
            is_closed=ops.full(ops.shape(rows), False, "bool"),
        )
        hypotheses = merged(ops, state.hypotheses, new)
        attainable = ranks[:, 0]
        if self.early_stopping == "never":
            # With a positive penalty the exponent favours long texts: assume the longest.
            longest = ops.cast(settings.max_length - settings.prompt_length, "float")
            at_most = scores[:, 0] / longest**settings.length_penalty
            attainable = ops.where(settings.length_penalty > 0.0, at_most, attainable)
        ends = ops.all(hypotheses.exists, axis=-1)
        if self.early_stopping is not True:
            ends = ends & (hypotheses.ranks[:, -1] >= attainable)
        return hypotheses, state.done | ends

    def _ending(self, ops: Ops, state: HypothesesState, ends: Array, rows: Array) -> Array:
        """Return which candidates end and may: bool [P, g]."""
        allowed = self.may_end(ops, state.progress)
        return ends if allowed is True else ends & ops.take(allowed, rows)

    def _by_group(self, ops: Ops, parts: list[Array]) -> Array:
        """Bring the parts of all groups, [B, n] each, to [P, n]."""
        joined = ops.concat([part[:, None, :] for part in parts], axis=1)
        return ops.reshape(joined, (-1, ops.shape(parts[0])[1]))

    def _end_stopped(
        self, ops: Ops, state: HypothesesState, beams: Beams, settings: Settings
    ) -> HypothesesState:
        """Make hypotheses of the beams of prompts whose beams have all stopped."""
        stopped = self.is_eos(ops, beams.tokens[:, None], settings)[:, 0]
        if self.criteria:
            step = state.length - settings.prompt_length
            text = state.open_tokens[:, : state.length]
            stopped = stopped | self.stopped_by_criteria(ops, text, state.scores, step)
        stopped = ops.all(ops.reshape(stopped, (-1, self.num_beams)), axis=-1)  # [B]
        groups = ops.shape(state.done)[0]
        stopped = ops.take(stopped, ops.arange(groups) // self.num_beam_groups)  # [P]

        opened = self._open_beams(ops, state, self._closed(ops, state, settings), stopped)
        if self.num_eos > 0:
            is_closed = opened.exists & (state.length < settings.max_length)
            opened = opened._replace(is_closed=is_closed)
        hypotheses = merged(ops, state.hypotheses, opened)
        return state._replace(hypotheses=hypotheses, done=state.done | stopped)

    def _open_beams(
        self, ops: Ops, state: HypothesesState, tokens: Array, groups: Array
    ) -> Hypotheses:
        """Return the open beams, of tokens int [R, L], as hypotheses of some groups: bool [P]."""
        shape = ops.shape(state.hypotheses.ranks)
        return Hypotheses(
            tokens=ops.reshape(tokens, (*shape, self.capacity)),
            ranks=ops.reshape(state.open_ranks, shape),
            origins=ops.reshape(state.open_origins, (*shape, self.steps)),
            exists=self._accepted(ops, state) & (groups & ~state.done)[:, None],
            is_closed=ops.full(shape, False, "bool"),
        )

    def _accepted(self, ops: Ops, state: HypothesesState) -> Array:
        """Return which open beams may be returned: bool [P, g].

        If too few of them may end, all of them.
        """
        groups, size = ops.shape(state.hypotheses.ranks)
        allowed = self.may_end(ops, state.progress)
        if allowed is True:
            return ops.full((groups, size), True, "bool")
        allowed = ops.reshape(allowed, (groups, size))
        count = ops.sum(ops.cast(allowed, "int"), axis=-1)[:, None]
        return allowed | (count < self.num_return_sequences)

    def _closed(self, ops: Ops, state: HypothesesState, settings: Settings) -> Array:
        """Return the open texts, ended by an eos where a criterion left room for one."""
        if self.num_eos == 0:
            return state.open_tokens
        columns = ops.arange(self.capacity)[None, :]
        here = (columns == state.length) & (columns < settings.max_length)
        return ops.where(here, settings.eos[0], state.open_tokens)

    # ---- the result ---------------------------------------------------------------------------

    def _best(self, ops: Ops, state: HypothesesState) -> Hypotheses:
        """Return the hypotheses to return, [B, n], when the loop has ended."""
        opened = self._open_beams(ops, state, state.open_tokens, state.done | True)
        found = merged(ops, state.hypotheses, opened)
        if self.num_beam_groups > 1:
            found = Hypotheses(*(self._of_prompts(ops, part) for part in found))
        return picked(ops, found, self.num_return_sequences)

    def _of_prompts(self, ops: Ops, part: Array) -> Array:
        """Bring [P, g, ...] to [B, K, ...], the last group first: of equal texts, its counts."""
        shape = ops.shape(part)
        part = ops.reshape(part, (-1, self.num_beam_groups, *shape[1:]))
        return ops.concat([part[:, group] for group in reversed(range(self.num_beam_groups))], 1)

    def settled(self, ops: Ops, state: HypothesesState) -> int:
        return 0  # any column may still change

    def sequences(self, ops: Ops, state: HypothesesState, settings: Settings) -> Array:
        best = self._best(ops, state)
        return ops.reshape(best.tokens, (-1, self.capacity))

    def generated(self, ops: Ops, state: HypothesesState, settings: Settings) -> int:
        best = self._best(ops, state)
        lengths = (ops.to_numpy(best.origins) >= 0).sum(axis=-1)
        return int((lengths + ops.to_numpy(best.is_closed)).max())

    def output_fields(self, ops: Ops, state: HypothesesState, generated: int) -> dict[str, Any]:
        if not self.keep_scores:
            return {}
        best = self._best(ops, state)
        return {
            "beam_indices": ops.reshape(best.origins, (-1, self.steps))[:, :generated],
            "sequences_scores": ops.reshape(best.ranks, (-1,)),
        }


def merged(ops: Ops, old: Hypotheses, new: Hypotheses) -> Hypotheses:
    """Return the best g of old and new ones, [P, g] each.

    A new one that is only as good as the worst of a full list is not taken.
    """
    is_full = ops.all(old.exists, axis=-1)[:, None]
    new = new._replace(exists=new.exists & ~(is_full & (new.ranks <= old.ranks[:, -1:])))
    both = Hypotheses(*(ops.concat([n, o], axis=1) for n, o in zip(new, old, strict=True)))
    return picked(ops, both, ops.shape(old.ranks)[1])


def picked(ops: Ops, hypotheses: Hypotheses, count: int) -> Hypotheses:
    """Return the best `count` of each row, best first."""
    order = ops.where(hypotheses.exists, ops.maximum(hypotheses.ranks, LOWEST), NEG_INF)
    _, best = ops.top_k(order, count)
    rows, width = ops.shape(order)
    flat = best + (ops.arange(rows) * width)[:, None]

    def pick(part: Array) -> Array:
        return ops.take(ops.reshape(part, (rows * width, *ops.shape(part)[2:])), flat)

    return Hypotheses(*map(pick, hypotheses))
