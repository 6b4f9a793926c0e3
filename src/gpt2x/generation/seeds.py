"""Seeds: the stream of random numbers of each row of `generate`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation import random
from gpt2x.generation.ops import Array, Ops

SEED_LIMIT = 2**64
ROW_LIMIT = 2**31


class Streams(NamedTuple):
    """Each row's seed and its number in it: int32 arrays [R] (the halves as bit patterns)."""

    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray

    def keys(self, ops: Ops) -> tuple[Array, Array]:
        """Return the keys of `random.gumbel_noise`: two word arrays [R]."""
        low, high = (ops.words(ops.constant(half, "int")) for half in (self.low, self.high))
        return random.row_keys(ops, (low, high), ops.constant(self.rows, "int"))


def streams(seed: Any, rows: int) -> Streams:
    """Return the streams of `rows` rows.

    An integer s gives row r the stream (s, r), whatever the batch around the row. A list of `rows`
    pairs (s, r) names the stream of each row, so that a row can be repeated alone.
    With `num_return_sequences` n, or n beams, the rows of prompt b are b * n to b * n + n - 1.

    Raises:
        InvalidInputError: if the seed is neither of these.
    """
    if is_integer(seed):
        pairs = [(seed, row) for row in range(rows)]
    elif isinstance(seed, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in seed
    ):
        pairs = [tuple(pair) for pair in seed]
        if len(pairs) != rows:
            raise InvalidInputError(
                f"seed lists {len(pairs)} streams, but {rows} rows are drawn; give one (seed, row) "
                "pair for each."
            )
    else:
        raise InvalidInputError(
            "seed must be an integer, or a list of (seed, row) pairs, one for each row drawn; "
            f"got {seed!r}."
        )
    for value, row in pairs:
        if not is_integer(value) or not 0 <= value < SEED_LIMIT:
            raise InvalidInputError(
                f"A seed must be an integer from 0 to 2**64 - 1; got {value!r}."
            )
        if not is_integer(row) or not 0 <= row < ROW_LIMIT:
            raise InvalidInputError(
                f"The row of a seed must be an integer from 0 to 2**31 - 1; got {row!r}."
            )
    halves = [random.split_seed(int(value)) for value, _ in pairs]
    low, high = (np.array(half, np.uint32).view(np.int32) for half in zip(*halves, strict=True))
    return Streams(low, high, np.array([row for _, row in pairs], np.int32))


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number of Python or numpy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
