"""Comparing a written checkpoint with its source, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.opening import open_checkpoint
from gpt2x.weights.lazy import BLOCK_BYTES, LazyTensor


class Difference(NamedTuple):
    """The largest difference between two checkpoints, and its tensor ("" for none)."""

    largest: float
    name: str


def largest_difference(path: Path, tensors: Mapping[str, LazyTensor]) -> Difference:
    """Read back the checkpoint at `path` and compare it with its source tensors.

    Raises CheckpointError if a tensor is missing or has another shape.
    """
    worst = Difference(0.0, "")
    with open_checkpoint(path) as written:
        for name, tensor in tensors.items():
            if name not in written or written[name].shape != tensor.shape:
                raise CheckpointError(f"{str(path)!r} does not hold {name!r} as the source does.")
            difference = _difference(tensor, written[name])
            if difference > worst.largest:
                worst = Difference(difference, name)
    return worst


def _difference(one: LazyTensor, other: LazyTensor) -> float:
    largest = 0.0
    for a, b in _blocks_of_both(one, other):
        a, b = a.astype(np.float32), b.astype(np.float32)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a)))
        largest = max(largest, float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)))
    return largest


def _blocks_of_both(one: LazyTensor, other: LazyTensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the same rows of both, a few at a time, so that comparing takes little memory."""
    read_one, read_other = (tensor.rows or _rows_of(tensor.read()) for tensor in (one, other))
    length = one.shape[0]
    step = max(1, BLOCK_BYTES * length // max(1, one.nbytes))
    for start in range(0, length, step):
        end = min(start + step, length)
        yield read_one(start, end), read_other(start, end)


def _rows_of(array: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, end: array[start:end]
