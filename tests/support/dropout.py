"""The masks that `gpt2x.train.dropout` defines, by numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.train.dropout import Site, kept, keys


def mask(
    shape: Sequence[int], rate: float, seed: int, site: Site, first_row: int = 0
) -> np.ndarray:
    """Return which elements are kept, bool of this shape [rows, ...]."""
    key = keys(seed, [site])
    row = math.prod(shape[1:])
    numbers = first_row * row + np.arange(shape[0] * row, dtype=np.uint64)
    words = (numbers >> 32).astype(np.uint32), numbers.astype(np.uint32)
    return kept(NUMPY_OPS, (key[:, 0], key[:, 1]), words, rate).reshape(shape)
