"""The log-probabilities that a model gives to tokens, in any framework.

B rows of a batch, W columns, N tokens to score, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt2x import backends
from gpt2x.errors import InvalidInputError, check_count
from gpt2x.generation.registry import ops_for
from gpt2x.weights.table import Head

#: Tokens that the model reads at once by default: their logits are 0.8 GB for GPT-2's vocabulary.
_TOKENS = 4096
# Tokens whose scores are computed at once, so that no second array of all logits is made.
_PIECE = 256


class Row(NamedTuple):
    """Tokens, of which those from `first` on are scored, each after all that stand before it.

    Attributes:
        ids: at most n_positions + 1 of them, as the last is not read.
        first: at least 1.
    """

    ids: list[int]
    first: int


class Scores(NamedTuple):
    """What a model says of the scored tokens of a row.

    Attributes:
        log_probabilities: natural logarithms, float64 [N].
        is_likeliest: whether each is the token that the model takes for the likeliest, bool [N].
    """

    log_probabilities: np.ndarray
    is_likeliest: np.ndarray


class Scorer:
    """Scores tokens by a model.

    Args:
        model: a language model of any backend.
        batch_size: rows that the model reads at once; by default as many as 4,096 tokens make.

    Raises:
        InvalidInputError: if the model has no language-model head.
    """

    def __init__(self, model: Any, batch_size: int | None = None) -> None:
        check_count("batch_size", batch_size, 1)
        framework = backends.of(model)
        if model.head not in (Head.LM, Head.DOUBLE):
            wanted = backends.get(framework).prefix + Head.LM.value
            raise InvalidInputError(
                f"{type(model).__name__} has no language-model head to score with; load a {wanted}."
            )
        self.model = model
        self.n_positions: int = model.config.n_positions
        self._batch_size = batch_size
        self._engine = backends.load(framework, module="inference")

    def scores(self, rows: Iterable[Row]) -> Iterator[Scores]:
        """Yield the scores of each row, in order."""
        batch: list[Row] = []
        longest = 0
        for row in rows:
            longest = max(longest, len(row.ids))
            if batch and self._is_full(len(batch) + 1, longest):
                yield from self._score(batch)
                batch, longest = [], len(row.ids)
            batch.append(row)
        if batch:
            yield from self._score(batch)

    def _is_full(self, rows: int, longest: int) -> bool:
        if self._batch_size is not None:
            return rows > self._batch_size
        return rows * longest > _TOKENS

    def _score(self, rows: list[Row]) -> Iterator[Scores]:
        longest = max(len(row.ids) - 1 for row in rows)
        width = self._engine.width(longest, self.n_positions)
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids) - 1] = row.ids[:-1]
            mask[number, : len(row.ids) - 1] = 1
        inputs = {"input_ids": ids} if mask.all() else {"input_ids": ids, "attention_mask": mask}
        logits = self._engine.forward(self.model, inputs, use_cache=False).logits  # [B, W, V]

        # The logits at a column are those of the token in the next one.
        places = [
            number * width + column - 1
            for number, row in enumerate(rows)
            for column in range(row.first, len(row.ids))
        ]
        targets = [token for row in rows for token in row.ids[row.first :]]
        scores = self._chosen(logits, np.asarray(places), np.asarray(targets))
        begin = 0
        for row in rows:
            end = begin + len(row.ids) - row.first
            yield Scores(scores.log_probabilities[begin:end], scores.is_likeliest[begin:end])
            begin = end

    def _chosen(self, logits: Any, places: np.ndarray, targets: np.ndarray) -> Scores:
        """Return the scores of tokens int [N], by the logits [B, W, V] at the places int [N]."""
        ops = ops_for(logits)
        rows, columns, vocab = ops.shape(logits)
        flat = ops.reshape(logits, (rows * columns, vocab))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(places), _PIECE):
            piece = slice(start, start + _PIECE)
            count = len(places[piece])
            # Pieces of one size, so that nothing is compiled for the last.
            place, target = (np.resize(x[piece], _PIECE) for x in (places, targets))
            kept = ops.cast(ops.take(flat, ops.constant(place, "int")), "float")
            scores = ops.take_along(ops.log_softmax(kept), ops.constant(target[:, None], "int"))
            best = ops.to_numpy(ops.argmax(kept)) == target
            found.append((ops.to_numpy(scores)[:count, 0].astype(np.float64), best[:count]))
        return Scores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def exp(value: float) -> float:
    """Return e to the power of a number, infinity where that is too large for a float."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))
