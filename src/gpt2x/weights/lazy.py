"""Tensors that stay in their file until they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.weights.table import Shape

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BLOCK_BYTES = 2 * 2**20
MAX_NAME = 8192  # characters of a tensor's name; far above any model's


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor in a file: its shape and dtype are known, its values stay in the file.

    `read` returns a new array each time and allocates little more than that array. A layout change
    (`transposed`, `mapped`) happens during the reading. `rows` returns the slice from one index to
    another along the first axis, if the format can read part of a tensor.
    """

    shape: Shape
    dtype: np.dtype[Any]
    reader: Callable[[], np.ndarray] = field(repr=False)
    rows: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> LazyTensor:
        """Wrap an array in memory."""
        return cls(array.shape, array.dtype, lambda: array, lambda first, last: array[first:last])

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values in memory."""
        return self.size * self.dtype.itemsize

    def read(self, dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """Return the values, converted to `dtype` if one is given.

        Raises CheckpointError if the file does not contain them.
        """
        if dtype is not None and dtype != self.dtype:
            return self._read_as(dtype)
        array = self.reader()
        assert array.shape == self.shape, (array.shape, self.shape)
        assert array.dtype == self.dtype, (array.dtype, self.dtype)
        return array

    def blocks(self, nbytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Yield the values in slices along the first axis, of about `nbytes` each if possible."""
        if self.rows is None or self.nbytes <= nbytes:
            yield self.read()
            return
        step = max(1, nbytes * self.shape[0] // self.nbytes)
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))

    def _read_as(self, dtype: np.dtype[Any]) -> np.ndarray:
        # In blocks, so that the unconverted array is never in memory as a whole.
        converted = np.empty(self.shape, dtype)
        if self.rows is None or not self.shape:
            converted[...] = self.read()
            return converted
        start = 0
        for block in self.blocks():
            converted[start : start + len(block)] = block
            start += len(block)
        return converted

    def mapped(self, shape: Shape, change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
        """Return this tensor with `change` applied when it is read; `shape` is the new shape."""
        return LazyTensor(tuple(shape), self.dtype, lambda: change(self.read()))

    def transposed(self) -> LazyTensor:
        """Return the transpose of a matrix, contiguous in memory."""
        return self.mapped(self.shape[::-1], lambda array: np.ascontiguousarray(array.T))

    def reshaped(self, *shape: int) -> LazyTensor:
        """Return the same values, in row-major order, with another shape."""
        return self.mapped(shape, lambda array: array.reshape(shape))

    def astype(self, dtype: np.dtype[Any]) -> LazyTensor:
        """Return the tensor with its values converted to `dtype` when they are read."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read(dtype))


def concatenated(tensors: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """Join tensors along `axis` when they are read; the other sizes must agree."""
    first = tensors[0]
    alike = [tensor.shape[:axis] + tensor.shape[axis:][1:] for tensor in tensors]
    same = len(set(alike)) == 1 and all(tensor.dtype == first.dtype for tensor in tensors)
    if not same or axis >= len(first.shape):
        raise CheckpointError(f"parts of shapes {[t.shape for t in tensors]} cannot be joined")
    shape = list(first.shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return LazyTensor(
        tuple(shape),
        first.dtype,
        lambda: np.concatenate([tensor.read() for tensor in tensors], axis=axis),
    )


def check_name(path: Path, name: str) -> str:
    """Return a tensor's name; raise CheckpointError if it is too long."""
    if len(name) > MAX_NAME:
        raise CheckpointError(
            f"{str(path)!r} holds a name of {len(name)} characters; {MAX_NAME} are allowed."
        )
    return name
