"""Greedy decoding and sampling: each row is independent and ends at an eos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2x.generation import random
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.processors import Processors
from gpt2x.generation.processors.base import NEG_INF
from gpt2x.generation.processors.warpers import kth_best
from gpt2x.generation.strategies.base import (
    NO_PROCESSORS,
    Outputs,
    Request,
    Settings,
    Strategy,
    context_of,
)


class RowState(NamedTuple):
    tokens: Array  # int [R, L]
    length: int | Scalar  # columns filled
    finished: Array  # bool [R]
    running: bool | Scalar  # whether any row is to continue
    scores: Any  # float [N, R, V] or ()
    logits: Any  # float [N, R, V] or ()


@dataclass(frozen=True, kw_only=True)
class Greedy(Strategy):
    """Take the likeliest token; of several, the one with the lowest id."""

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> RowState:
        rows = ops.shape(settings.prompt)[0]
        return RowState(
            tokens=self.prompt_buffer(ops, settings, settings.fill),
            length=settings.prompt_length,
            finished=ops.full((rows,), False, "bool"),
            running=ops.scalar(True, "bool"),
            scores=self.record(ops, self.keep_scores, rows, vocab_size),
            logits=self.record(ops, self.keep_logits, rows, vocab_size),
        )

    def step(
        self, ops: Ops, state: RowState, outputs: Outputs, settings: Settings
    ) -> tuple[RowState, Request]:
        step = state.length - settings.prompt_length
        logits = self.logits(ops, outputs)
        context = context_of(state.tokens, state.length, settings, outputs)
        scores = self.processors(ops, logits, context, settings.processors)
        tokens, scores = self.choose(ops, scores, step, context, settings)
        if self.num_eos > 0:
            tokens = ops.where(state.finished, settings.fill, tokens)
        length = state.length + 1
        text = ops.write(state.tokens, state.length, tokens, axis=1)
        kept_scores, kept_logits = self.keep(ops, state, step, scores, outputs.logits)
        finished = state.finished | self.is_eos(ops, tokens[:, None], settings)[:, 0]
        if self.criteria:
            finished = finished | self.stopped_by_criteria(
                ops, text[:, :length], kept_scores, step + 1
            )
        running = ops.any(~finished) & (length < settings.max_length)
        state = RowState(text, length, finished, running, kept_scores, kept_logits)
        return state, Request(tokens[:, None], length - 1)

    def logits(self, ops: Ops, outputs: Outputs) -> Array:
        """Return the logits that processors and choice start from, float [R, V]."""
        return outputs.logits

    def choose(
        self, ops: Ops, scores: Array, step: int | Scalar, context: Any, settings: Settings
    ) -> tuple[Array, Array]:
        """Return each row's next token, int [R], and the scores that chose it, float [R, V]."""
        return ops.argmax(scores), scores

    def sequences(self, ops: Ops, state: RowState, settings: Settings) -> Array:
        return state.tokens


@dataclass(frozen=True, kw_only=True)
class Sample(Greedy):
    """Draw a token from softmax(scores), by Gumbel-max over counter-based noise.

    warpers: applied after `processors`; those from `top_k` on see the candidates only.
    width: number of candidates that `top_k` keeps, ties included; 0 keeps the whole vocabulary.
    """

    warpers: Processors = NO_PROCESSORS
    width: int = 0

    samples = True

    @property
    def host(self) -> bool:
        return super().host or self.warpers.host

    def choose(
        self, ops: Ops, scores: Array, step: int | Scalar, context: Any, settings: Settings
    ) -> tuple[Array, Array]:
        vocab_size = ops.shape(scores)[-1]
        if self.width:
            candidates, ids = ops.top_k(scores, min(self.width, vocab_size))  # [R, C] each
            kept = candidates >= kth_best(ops, candidates, settings.top_k)
            candidates = ops.where(kept, candidates, NEG_INF)
        else:
            candidates, ids = scores, ops.arange(vocab_size)[None, :]
        candidates = self.warpers(ops, candidates, context, settings.warpers)
        noise = random.gumbel_noise(ops, settings.keys, step, ids)
        choice = ops.argmax(candidates + noise)  # [R]
        if not self.width:
            return choice, candidates
        tokens = ops.take_along(ids, choice[:, None])[:, 0]
        return tokens, self._spread(ops, candidates, ids, scores) if self.keep_scores else scores

    def _spread(self, ops: Ops, candidates: Array, ids: Array, scores: Array) -> Array:
        """Put the candidates' scores in their columns of [R, V], and -inf elsewhere."""
        zeros = ops.full(ops.shape(scores), 0.0, "float")
        kept = ops.scatter_add(zeros, ids, ops.cast(candidates > NEG_INF, "float")) > 0
        return ops.where(kept, ops.scatter_add(zeros, ids, candidates), NEG_INF)
