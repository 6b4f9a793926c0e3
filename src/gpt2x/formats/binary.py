"""Reading arrays at offsets of a file; every size is checked before memory is allocated.

Files are read and not mapped: a mapped page counts as memory of the process until it is unmapped,
which would double the peak while a model loads.
"""

from __future__ import annotations

import math
import os
import reprlib
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.storage.budget import TENSOR, Budget
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Shape

_GIT_LFS = b"version https://git-lfs.github.com/spec/"

MAX_DIMENSIONS = 32  # far above any model's; numpy itself stops at 64
MAX_ELEMENTS = 2**56  # numpy refuses shapes near 2**63 bytes, empty ones too


def check_shape(shape: object, where: str) -> Shape:
    """Return `shape` as a tuple of ints, or raise CheckpointError if it is not an array's shape."""
    if (
        not isinstance(shape, list | tuple)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
        or math.prod(n for n in shape if n) > MAX_ELEMENTS
    ):
        raise CheckpointError(f"{where} has an impossible shape, {_spelled(shape):.100}")
    return tuple(shape)


def _spelled(shape: object) -> str:
    try:
        return reprlib.repr(shape)
    except ValueError:  # Python does not print integers of many thousand digits
        return "of integers without end"


class BinaryFile:
    """A file open for reading at offsets. `size` is its length in bytes.

    `budget` limits the memory of reading it: one budget for all files of a checkpoint, or by
    default its own.
    """

    def __init__(self, path: Path, budget: Budget | None = None) -> None:
        self.path = Path(path)
        try:
            self._stream = open(self.path, "rb")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise CheckpointError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
        self.size = os.fstat(self._stream.fileno()).st_size
        self.budget = Budget(str(path)) if budget is None else budget
        self.budget.admit(self.size)
        if self._stream.read(len(_GIT_LFS)) == _GIT_LFS:
            self.close()
            raise CheckpointError(
                f"{str(path)!r} is a pointer that Git LFS left in place of the file; run "
                "`git lfs pull` in the clone, or download the file."
            )

    def close(self) -> None:
        """Close the file; its tensors cannot be read afterwards."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; raises CheckpointError if the file ends before."""
        self.check_range(offset, count, "a header")
        self._stream.seek(offset)
        data = self._stream.read(count)
        if len(data) != count:
            raise self._truncated(offset, count, "a header")
        return data

    def tensor(
        self, offset: int, shape: Shape, dtype: np.dtype[Any], what: str = "a tensor"
    ) -> LazyTensor:
        """Return the array stored row by row at `offset`; raises CheckpointError if too long."""
        count = math.prod(shape) * dtype.itemsize
        self.check_range(offset, count, what)
        self.budget.charge(TENSOR + count, "tensors")
        row = math.prod(shape[1:]) * dtype.itemsize

        def rows(first: int, last: int) -> np.ndarray:
            return self.array(offset + first * row, (last - first, *shape[1:]), dtype, what)

        return LazyTensor(
            shape,
            dtype.newbyteorder("="),
            lambda: self.array(offset, shape, dtype, what),
            rows if shape else None,
        )

    def array(
        self, offset: int, shape: Shape, dtype: np.dtype[Any], what: str = "a tensor"
    ) -> np.ndarray:
        """Read the array stored row by row at `offset`, in this machine's byte order."""
        count = math.prod(shape) * dtype.itemsize
        self.check_range(offset, count, what)
        array = np.empty(shape, dtype)
        self._stream.seek(offset)
        if count and self._stream.readinto(array.reshape(-1).view(np.uint8)) != count:  # type: ignore[arg-type]
            raise self._truncated(offset, count, what)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def check_range(self, offset: int, count: int, what: str) -> None:
        """Raise CheckpointError unless the file has `count` bytes from `offset`."""
        if self._stream.closed:
            raise CheckpointError(f"{str(self.path)!r} is closed; read its tensors before.")
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self._truncated(offset, count, what)

    def _truncated(self, offset: int, count: int, what: str) -> CheckpointError:
        return CheckpointError(
            f"{str(self.path)!r} is truncated or corrupt: {what} should take {count} bytes from "
            f"offset {offset}, but the file has {self.size}. Download or copy it again."
        )
