"""Beam search and beam sampling, with the rules of transformers' PyTorch implementation.

Every step scores all continuations of the K running beams of a prompt and takes the best
``max(2, 1 + E) * K`` of them: enough for K to go on even if every beam could end in each of the E
eos tokens. Of these, only the best K may finish. Finished texts are ranked by
``sum of log-probabilities / generated tokens ** length_penalty``; the best K of them are kept.

Beam sampling draws those continuations instead of taking the best, without replacement and in
proportion to their probability: the best after adding Gumbel noise (arXiv:1903.06059).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from gpt2x.generation import random
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput
from gpt2x.generation.strategies.base import Outputs, Request, Settings, Strategy, context_of

# A score that no real text has. It is finite, so that it can be added and compared. Scores that
# contain it are equal within float32, and all of them lose.
LOST = -1.0e9


class BeamState(NamedTuple):
    running: bool | Scalar  # whether any prompt is to continue
    length: int | Scalar  # columns filled in `open_tokens`
    open_tokens: Array  # int [B, K, L]: the running beams
    open_scores: Array  # float [B, K]: their sums of log-probabilities, descending
    open_origins: Array  # int [B, K, N]: at each step, the row that each beam came from
    tokens: Array  # int [B, K, L]: the best finished texts
    ranks: Array  # float [B, K]: their length-normalised scores, descending
    origins: Array  # int [B, K, N]
    finished: Array  # bool [B, K]: whether each of `tokens` holds a finished text
    improvable: Array  # bool [B]: whether a running beam may still beat a finished one
    scores: Any  # float [N, R, V] or ()
    logits: Any  # float [N, R, V] or ()


@dataclass(frozen=True, kw_only=True)
class BeamSearch(Strategy):
    """Keep the `num_beams` likeliest texts, of all or of drawn ones.

    do_sample: draw the continuations of the running beams.
    early_stopping: True ends a prompt once it has K finished texts; False ends it once the best
        running beam, at its present length, scores below the worst finished text; "never" ends it
        once no running beam can beat the worst finished text at any length.
    num_return_sequences: how many of the K best texts to return.
    """

    num_beams: int
    do_sample: bool = False
    num_return_sequences: int = 1
    early_stopping: bool | Literal["never"] = False

    reorders = True
    unstreamable: ClassVar[str | None] = (
        "Beam search cannot be streamed: its texts change until it ends. Set num_beams=1."
    )
    output_class: ClassVar[type[Any]] = GenerateBeamDecoderOnlyOutput

    @property
    def samples(self) -> bool:  # type: ignore[override]
        return self.do_sample

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> BeamState:
        rows = ops.shape(settings.prompt)[0]
        prompts, beams = rows // self.num_beams, self.num_beams
        buffer = self.prompt_buffer(ops, settings, settings.fill)
        tokens = ops.reshape(buffer, (prompts, beams, self.capacity))
        origins = ops.full((prompts, beams, self.steps), -1, "int")
        # All beams of a prompt start equal: only the first may be continued in the first step.
        first = (ops.arange(beams) == 0)[None, :] & ops.full((prompts, 1), True, "bool")
        return BeamState(
            running=ops.scalar(True, "bool"),
            length=settings.prompt_length,
            open_tokens=tokens,
            open_scores=ops.where(first, 0.0, ops.full((prompts, beams), LOST, "float")),
            open_origins=origins,
            tokens=tokens + 0,
            ranks=ops.full((prompts, beams), LOST, "float"),
            origins=origins + 0,
            finished=ops.full((prompts, beams), False, "bool"),
            improvable=ops.full((prompts,), True, "bool"),
            scores=self.record(ops, self.keep_scores, rows, vocab_size),
            logits=self.record(ops, self.keep_logits, rows, vocab_size),
        )

    def step(
        self, ops: Ops, state: BeamState, outputs: Outputs, settings: Settings
    ) -> tuple[BeamState, Request]:
        logits = outputs.logits
        prompts, beams, _ = ops.shape(state.open_tokens)
        rows, vocab_size = ops.shape(logits)
        step = state.length - settings.prompt_length
        length = state.length + 1

        # 1. Score every continuation: [R, V].
        text = ops.reshape(state.open_tokens, (rows, self.capacity))
        context = context_of(text, state.length, settings, outputs)
        scores = self.processors(ops, ops.log_softmax(logits), context, settings.processors)
        kept_scores, kept_logits = self.keep(ops, state, step, scores, logits)

        # 2. Take, or draw, the best C of each prompt: [B, C].
        totals = ops.reshape(scores, (prompts, beams, vocab_size)) + state.open_scores[:, :, None]
        totals = ops.reshape(totals, (prompts, beams * vocab_size))
        best, index = self._candidates(ops, totals, vocab_size, step, settings)
        origin, token = index // vocab_size, index % vocab_size
        texts = ops.write(_pick(ops, state.open_tokens, origin), state.length, token, axis=2)
        row = origin + (ops.arange(prompts) * beams)[:, None]
        origins = ops.write(_pick(ops, state.open_origins, origin), step, row, axis=2)

        # 3. Which of them end here?
        ends = self.is_eos(ops, token, settings) | (length >= settings.max_length)
        if self.criteria:
            flat = ops.reshape(texts, (-1, self.capacity))[:, :length]
            stopped = self.stopped_by_criteria(ops, flat, kept_scores, step + 1)
            ends = ends | ops.reshape(stopped, ops.shape(token))

        # 4. The best K that do not end continue.
        open_scores, chosen = ops.top_k(best + ops.cast(ends, "float") * LOST, beams)
        tokens = ops.reshape(ops.take_along(token, chosen), (rows,))
        parents = ops.reshape(ops.take_along(row, chosen), (rows,))

        # 5. Of the best K, those that end compete with the finished texts.
        done = self._finish(ops, state, settings, best, ends, texts, origins)

        # 6. Can another step change the result?
        improvable = state.improvable & self._can_improve(
            ops, open_scores, done.ranks, done.finished, length, settings
        )
        running = ops.any(improvable) & ops.any(~ends)
        if self.early_stopping is True:
            running = running & ops.any(~done.finished)
        state = done._replace(
            running=running,
            length=length,
            open_tokens=_pick(ops, texts, chosen),
            open_scores=open_scores,
            open_origins=_pick(ops, origins, chosen),
            improvable=improvable,
            scores=kept_scores,
            logits=kept_logits,
        )
        return state, Request(tokens[:, None], length - 1, parents)

    def _candidates(
        self, ops: Ops, totals: Array, vocab_size: int, step: int | Scalar, settings: Settings
    ) -> tuple[Array, Array]:
        """Return the scores and columns of C continuations of each prompt: totals [B, K x V]."""
        count = max(2, 1 + self.num_eos) * self.num_beams
        if not self.do_sample:
            return ops.top_k(totals, count)
        tokens = ops.arange(vocab_size)[None, :]
        noise = random.gumbel_noise(ops, settings.keys, step, tokens)  # [R, V]
        _, index = ops.top_k(totals + ops.reshape(noise, ops.shape(totals)), count)
        return ops.take_along(totals, index), index

    def _finish(
        self,
        ops: Ops,
        state: BeamState,
        settings: Settings,
        scores: Array,
        ends: Array,
        texts: Array,
        origins: Array,
    ) -> BeamState:
        """Return the state with the best K of the finished texts and of those that end now."""
        count, beams = ops.shape(scores)[1], self.num_beams
        may_finish = ends & (ops.arange(count) < beams)[None, :]
        closed = ~state.improvable[:, None]
        if self.early_stopping is True:
            closed = closed | ops.all(state.finished, axis=-1)[:, None]
        generated = ops.cast(state.length + 1 - settings.prompt_length, "float")
        ranks = scores / generated**settings.length_penalty
        ranks = ranks + ops.cast(closed, "float") * LOST + ops.cast(~may_finish, "float") * LOST
        ranks, winners = ops.top_k(ops.concat([state.ranks, ranks], axis=1), beams)
        finished = ops.concat([state.finished, may_finish], axis=1)
        return state._replace(
            tokens=_pick(ops, ops.concat([state.tokens, texts], axis=1), winners),
            ranks=ranks,
            origins=_pick(ops, ops.concat([state.origins, origins], axis=1), winners),
            finished=ops.take_along(ops.cast(finished, "int"), winners) > 0,
        )

    def _can_improve(
        self,
        ops: Ops,
        open_scores: Array,
        ranks: Array,
        finished: Array,
        length: int | Scalar,
        settings: Settings,
    ) -> Array:
        """Return whether the best running beam could beat the worst finished text: bool [B]."""
        best_length = length - settings.prompt_length
        if self.early_stopping == "never":
            # With a positive penalty the exponent favours long texts: assume the longest.
            longest = settings.max_length - settings.prompt_length
            best_length = ops.where(settings.length_penalty > 0.0, longest, best_length)
        attainable = open_scores[:, :1] / ops.cast(best_length, "float") ** settings.length_penalty
        worst = -ops.max(-ranks, axis=-1)[:, None]
        return ops.any(attainable > ops.where(finished, worst, LOST), axis=-1)

    def settled(self, ops: Ops, state: BeamState) -> int:
        return 0  # any column may still change

    def sequences(self, ops: Ops, state: BeamState, settings: Settings) -> Array:
        best = state.tokens[:, : self.num_return_sequences]
        return self._returned(ops, best)

    def generated(self, ops: Ops, state: BeamState, settings: Settings) -> int:
        origins = ops.to_numpy(state.origins[:, : self.num_return_sequences])
        return int((origins >= 0).sum(axis=-1).max())

    def output_fields(self, ops: Ops, state: BeamState, generated: int) -> dict[str, Any]:
        best = slice(self.num_return_sequences)
        return {
            "beam_indices": self._returned(ops, state.origins[:, best, :generated]),
            "sequences_scores": (
                ops.reshape(state.ranks[:, best], (-1,)) if self.keep_scores else None
            ),
        }

    def _returned(self, ops: Ops, x: Array) -> Array:
        """Bring what belongs to each text returned, [B, texts, L], to [B x texts, L]."""
        prompts, texts, width = ops.shape(x)
        return ops.reshape(x, (prompts * texts, width))


def _pick(ops: Ops, x: Array, index: Array) -> Array:
    """Pick beams of each prompt: x [B, M, L], index int [B, C] -> [B, C, L]."""
    prompts, beams, width = ops.shape(x)
    flat = ops.reshape(x, (prompts * beams, width))
    return ops.take(flat, index + (ops.arange(prompts) * beams)[:, None])
