"""The order of rows: a permutation for each epoch, by random access and without memory."""

from __future__ import annotations

import numpy as np

from gpt2x.errors import InvalidInputError, check_count
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.random import split_seed, threefry2x32

Words = tuple[np.ndarray, np.ndarray]

# Keeps these numbers apart from others that are drawn with the same seed.
_PURPOSE = 0x6F726472
# Four make a permutation that passes as random (Luby and Rackoff, 1988); few bits need more.
_ROUNDS = 8
_LEAST_BITS = 4


class Order:
    """A drawn permutation of rows for each epoch.

    A Feistel network, whose rounds are Threefry's words, permutes the numbers below a power of two.
    A number that is not a row is permuted again until one is (cycle walking), so that the rows are
    permuted among themselves. Nothing is stored: any part of the order is found at once, and a run
    that goes on needs to know only its position.

    Args:
        seed: 0 <= seed < 2**64.
        length: number of rows.

    Raises:
        InvalidInputError: if there are no rows, or the seed is out of range.
    """

    def __init__(self, seed: int, length: int) -> None:
        check_count("seed", seed)
        if seed >= 2**64:
            raise InvalidInputError(f"seed is {seed}; it must be below 2**64.")
        if not 0 < length <= 2**62:
            raise InvalidInputError(
                f"An order of {length} rows was asked for; it needs at least 1."
            )
        low, high = split_seed(seed)
        self._seed = np.array([low], np.uint32), np.array([high], np.uint32)
        self._length = length
        bits = max(_LEAST_BITS, (length - 1).bit_length())
        self._bits = bits - bits // 2, bits // 2

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at positions of the run.

        Args:
            positions: int64 [R], each epoch * length + place in the epoch.

        Returns:
            int64 [R], below `length`.
        """
        epochs, places = np.divmod(np.asarray(positions, np.int64), self._length)
        purpose = np.full(1, _PURPOSE, np.uint32)
        keys = threefry2x32(NUMPY_OPS, self._seed, (epochs.astype(np.uint32), purpose))
        rows = self._permuted(places, keys)
        while (outside := np.flatnonzero(rows >= self._length)).size:
            rows[outside] = self._permuted(rows[outside], (keys[0][outside], keys[1][outside]))
        return rows

    def _permuted(self, numbers: np.ndarray, keys: Words) -> np.ndarray:
        """Permute the numbers int64 [R] below the power of two, each by its own key."""
        left_bits, right_bits = self._bits
        left = (numbers >> right_bits).astype(np.uint32)
        right = (numbers & ((1 << right_bits) - 1)).astype(np.uint32)
        for number in range(_ROUNDS):
            counter = right, np.full(1, number, np.uint32)
            word = threefry2x32(NUMPY_OPS, keys, counter)[0] & np.uint32((1 << left_bits) - 1)
            # The halves change places, and with them their sizes.
            left, right = right, left ^ word
            left_bits, right_bits = right_bits, left_bits
        return (left.astype(np.int64) << right_bits) | right
