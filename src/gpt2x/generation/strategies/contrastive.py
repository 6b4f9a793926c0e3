"""Contrastive search: likely tokens that do not repeat the text's meaning (arXiv:2202.06417).

Of the k likeliest tokens, it takes the one with the best
``(1 - alpha) * probability - alpha * largest cosine similarity to a token of the text``, where the
similarity is that of the last layer's hidden states. So the model has to run all candidates before
one is chosen: a step chooses among those of the step before, and asks for the next ones.

R rows, W columns of the prompt as the model runs it, L of the text, N steps, k candidates, E
n_embd, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.processors.base import NEG_INF
from gpt2x.generation.strategies.base import Needs, Outputs, Request, Settings, Strategy, context_of

# Smaller than any score.
_LOST = -1.0e30
# Keeps the norm of columns without text from being 0.
_TINY = 1e-20


class ContrastiveSettings(NamedTuple):
    """What only contrastive search reads of its settings."""

    penalty_alpha: float | Scalar  # weight of the similarity; the probability has 1 - alpha


class ContrastiveState(NamedTuple):
    tokens: Array  # int [R, L]
    length: int | Scalar  # columns filled
    finished: Array  # bool [R]
    running: bool | Scalar  # whether any row is to continue
    scores: Any  # float [N, R, V] or ()
    logits: Any  # float [N, R, V] or ()
    # The others are () before the first step.
    directions: Any  # float [R, W + N, E]: the hidden states of prompt and new text, of norm 1
    is_text: Any  # bool [R, W + N]: False at padding of the prompt
    last: Any  # int [R, 1]: the token chosen last; behind a text's end it is not the fill
    candidates: Any  # int [R, k]: the tokens that the model runs next
    probabilities: Any  # float [R, k]: theirs; -1 if they are forbidden
    candidate_scores: Any  # float [R, V]: the scores that they come from; () if not kept
    candidate_logits: Any  # float [R, V]: the logits that they come from; () if not kept


@dataclass(frozen=True, kw_only=True)
class ContrastiveSearch(Strategy):
    """Choose among the `width` likeliest tokens by probability and by how new they are.

    width: k, more than 1.
    """

    width: int

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs(columns=1 + self.width, siblings=True, hidden_states=True)

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> ContrastiveState:
        rows = ops.shape(settings.prompt)[0]
        return ContrastiveState(
            tokens=self.prompt_buffer(ops, settings, settings.fill),
            length=settings.prompt_length,
            finished=ops.full((rows,), False, "bool"),
            running=ops.scalar(True, "bool"),
            directions=(),
            is_text=(),
            last=(),
            candidates=(),
            probabilities=(),
            candidate_scores=(),
            candidate_logits=(),
            scores=self.record(ops, self.keep_scores, rows, vocab_size),
            logits=self.record(ops, self.keep_logits, rows, vocab_size),
        )

    def step(
        self, ops: Ops, state: ContrastiveState, outputs: Outputs, settings: Settings
    ) -> tuple[ContrastiveState, Request]:
        if isinstance(state.candidates, tuple):
            # Embeddings without ids have no last token: the engine reads theirs in its place.
            column = ops.full((ops.shape(state.tokens)[0], 1), state.length - 1, "int")
            column = ops.maximum(column, 0)
            rows, _, size = ops.shape(outputs.hidden_states)
            known = _directions(ops, outputs.hidden_states)
            new = ops.full((rows, self.steps, size), 0.0, "float")
            is_new = ops.full((rows, self.steps), True, "bool")
            state = state._replace(
                directions=ops.concat([known, new], axis=1),
                is_text=ops.concat([outputs.is_text, is_new], axis=1),
                last=ops.take_along(state.tokens, column),
            )
        else:
            state, outputs = self._choose(ops, state, outputs, settings)
            if self.host and not bool(state.running):
                return state, self._request(ops, state)  # functions of users see no text too many
        state = self._recall(ops, state, outputs, settings)
        return state, self._request(ops, state)

    def _choose(
        self, ops: Ops, state: ContrastiveState, outputs: Outputs, settings: Settings
    ) -> tuple[ContrastiveState, Outputs]:
        """Append a candidate to each row; return the outputs after it too."""
        step, length = state.length - settings.prompt_length, state.length + 1
        directions = _directions(ops, outputs.hidden_states[:, 1:])  # [R, k, E]
        column = ops.shape(state.is_text)[1] - self.steps + step  # of the new token
        penalties = self._penalties(ops, state, directions, column)  # [R, k]
        alpha = settings.own.penalty_alpha
        scores = (1.0 - alpha) * state.probabilities - alpha * penalties
        allowed = state.probabilities >= 0
        choice = ops.argmax(ops.where(allowed, scores, _LOST))  # [R]
        last = ops.take_along(state.candidates, choice[:, None])
        tokens = last[:, 0]
        if self.num_eos > 0:
            tokens = ops.where(state.finished, settings.fill, tokens)

        text = ops.write(state.tokens, state.length, tokens, axis=1)
        kept_scores, kept_logits = self.keep(
            ops, state, step, state.candidate_scores, state.candidate_logits
        )
        finished = state.finished | self.is_eos(ops, tokens[:, None], settings)[:, 0]
        if self.criteria:
            finished = finished | self.stopped_by_criteria(
                ops, text[:, :length], kept_scores, step + 1
            )
        chosen = _pick(ops, directions, choice)  # [R, E]
        state = state._replace(
            tokens=text,
            length=length,
            finished=finished,
            running=ops.any(~finished) & (length < settings.max_length),
            directions=ops.write(state.directions, column, chosen, axis=1),
            last=last,
            scores=kept_scores,
            logits=kept_logits,
        )
        unconditional = outputs.unconditional
        if not isinstance(unconditional, tuple):
            unconditional = _pick(ops, unconditional[:, 1:], choice)
        after = Outputs(_pick(ops, outputs.logits[:, 1:], choice), unconditional=unconditional)
        return state, after

    def _penalties(
        self, ops: Ops, state: ContrastiveState, directions: Array, stop: int | Scalar
    ) -> Array:
        """Return the largest similarity to columns before `stop`: [R, k, E] -> [R, k]."""
        columns = ops.arange(ops.shape(state.is_text)[1])
        is_text = state.is_text & (columns < stop)[None, :]  # [R, W + N]
        largest = []
        for candidate in range(self.width):
            direction = directions[:, candidate, :, None]  # [R, E, 1]
            similarity = (state.directions @ direction)[:, :, 0]  # [R, W + N]
            largest.append(ops.max(ops.where(is_text, similarity, _LOST), axis=-1)[:, None])
        return ops.concat(largest, axis=1)

    def _recall(
        self, ops: Ops, state: ContrastiveState, outputs: Outputs, settings: Settings
    ) -> ContrastiveState:
        """Return the state with the next candidates, of logits [R, V]."""
        context = context_of(state.tokens, state.length, settings, outputs)
        scores = self.processors(ops, outputs.logits, context, settings.processors)
        best, candidates = ops.top_k(scores, self.width)
        probabilities = ops.exp(ops.take_along(ops.log_softmax(scores), candidates))
        return state._replace(
            candidates=candidates,
            probabilities=ops.where(best > NEG_INF, probabilities, -1.0),
            candidate_scores=scores if self.keep_scores else (),
            candidate_logits=outputs.logits if self.keep_logits else (),
        )

    def _request(self, ops: Ops, state: ContrastiveState) -> Request:
        """Ask for the text's last token again, now at its place, and for the candidates."""
        tokens = ops.concat([state.last, state.candidates], axis=1)
        return Request(tokens, state.length - 1)

    def sequences(self, ops: Ops, state: ContrastiveState, settings: Settings) -> Array:
        return state.tokens


def check_contrastive(config: GenerationConfig, vocab_size: int) -> None:
    """Raise if other options rule contrastive search out."""
    if config.top_k > vocab_size:
        raise InvalidInputError(
            f"Contrastive search takes the top_k={config.top_k} likeliest tokens, but the "
            f"vocabulary has {vocab_size}; lower top_k."
        )
    refused = {
        "prompt_lookup_num_tokens, which drafts for greedy search and sampling": (
            config.prompt_lookup_num_tokens is not None
        ),
        "use_cache=False, since it runs its candidates behind the text in the cache": (
            not config.use_cache
        ),
    }
    for reason, is_given in refused.items():
        if is_given:
            raise InvalidInputError(
                f"Contrastive search (penalty_alpha) cannot be combined with {reason}; leave one "
                "of them out."
            )


def _directions(ops: Ops, hidden_states: Array) -> Array:
    """Scale hidden states [R, T, E] to norm 1."""
    squares = ops.sum(hidden_states * hidden_states, axis=-1)[:, :, None]
    return hidden_states / ops.maximum(squares, _TINY) ** 0.5


def _pick(ops: Ops, x: Array, choice: Array) -> Array:
    """Pick a candidate of each row: x [R, k, N], choice int [R] -> [R, N]."""
    rows, candidates, width = ops.shape(x)
    flat = ops.reshape(x, (rows * candidates, width))
    return ops.take(flat, ops.arange(rows) * candidates + choice)
