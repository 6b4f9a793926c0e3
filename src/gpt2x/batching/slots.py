"""What a framework brings to serving: a model with a cache of a row for each text.

B the texts that run, S columns of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gpt2x.batching.choice import LogProbabilities, TextValues, Variant
from gpt2x.generation.ops import Array

#: Tokens of a prompt that are run between two steps of the other texts, at most.
PIECE = 64


class Slots(Protocol):
    """R rows of a cache, each with the keys and values of a text of its own.

    It is the class `Slots` of a backend's module `slots`, made by ``Slots(model, rows, shared)``.
    Processes that have the same model give the same folder `shared`, in which PyTorch keeps weights
    that they have once; other frameworks keep arrays of their own. Without one nothing is shared.

    Text of a row begins at column 0; what stands behind its end is never seen, and is overwritten.
    Logits are arrays of the framework; they may have more rows than were asked for. All calls come
    from one thread.

    Attributes:
        rows: R.
        columns: S, the model's `n_positions`.
        vocab_size: V.
    """

    rows: int
    columns: int
    vocab_size: int

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> Array:
        """Run more tokens of one text, int32 [n], which stand at `start` and behind it.

        There are `PIECE` of them at most.

        Returns the logits after the last of them, float32 [1, V]; with `every` after each, [n, V].
        """

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> Array:
        """Run a token of each of the first B rows: int32 [B], at the columns `starts` int32 [B].

        Returns the logits after them, float32 [B, V].
        """

    def logits_at(self, logits: Array, number: int) -> Array:
        """Return one row of logits, [1, V]."""

    def choose(
        self, logits: Array, values: TextValues, variant: Variant
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `choice.choose` does of logits [B, V], on the host."""

    def log_probabilities(self, logits: Array, tokens: np.ndarray) -> list[LogProbabilities]:
        """Return what `choice.log_probabilities` does of logits [B, V] and tokens [B]."""

    def swap(self, row: int, other: int, length: int) -> None:
        """Exchange the first `length` columns of two rows."""

    def copy(self, row: int, other: int, length: int) -> None:
        """Let `other` begin with the first `length` columns of a row."""

    def warm_up(self) -> None:
        """Prepare all that serving can need: afterwards nothing is compiled.

        It is called before the first text; what the rows hold then is not known.
        """


def sizes(largest: int, smallest: int) -> tuple[int, ...]:
    """Return the sizes for which functions are compiled: fourfold ones up to the largest.

    >>> sizes(16, 1), sizes(1024, 256)
    ((1, 4, 16), (256, 1024))
    """
    found = [largest]
    while found[0] > smallest:
        found.insert(0, max(-(-found[0] // 4), smallest))
    return tuple(found)


def enough(sizes: Sequence[int], count: int) -> int:
    """Return the smallest size for so many."""
    return next(size for size in sizes if size >= count)


def padded(array: np.ndarray, rows: int, fill: int | None = None) -> np.ndarray:
    """Return an array [B, ...] with more rows: of a value, or like the last one."""
    room = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    if fill is None:
        return np.pad(array, room, mode="edge")
    return np.pad(array, room, constant_values=fill)


def as_log_probabilities(
    chosen: np.ndarray, likeliest: np.ndarray, ids: np.ndarray
) -> list[LogProbabilities]:
    """Return the arrays of `choice.log_probabilities` row by row."""
    return [
        LogProbabilities(own, list(zip(tokens, values, strict=True)))
        for own, values, tokens in zip(
            chosen.tolist(), likeliest.tolist(), ids.tolist(), strict=True
        )
    ]


def common_length(text: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))
