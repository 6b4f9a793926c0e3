"""Storages and tensors of PyTorch files: the code that both layouts share."""

from __future__ import annotations

import math
import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.formats.torch.pickle_machine import Constructor, Inert, Known, PickleMachine, plain_key
from gpt2x.storage.budget import TENSOR, VALUE
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.table import Shape

LITTLE_ENDIAN = sys.byteorder == "little"

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "float64": np.dtype("f8"),
    "float32": np.dtype("f4"),
    "float16": np.dtype("f2"),
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype("i8"),
    "int32": np.dtype("i4"),
    "int16": np.dtype("i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("c8"),
    "complex128": np.dtype("c16"),
}

STORAGE_OF_DTYPE: Mapping[np.dtype[Any], str] = {
    _DTYPES[dtype]: storage
    for dtype, storage in {
        "float64": "DoubleStorage",
        "float32": "FloatStorage",
        "float16": "HalfStorage",
        "bfloat16": "BFloat16Storage",
        "int64": "LongStorage",
        "int32": "IntStorage",
        "int16": "ShortStorage",
        "int8": "CharStorage",
        "uint8": "ByteStorage",
        "bool": "BoolStorage",
    }.items()
}


# The classes of storages, each for a dtype. An untyped storage counts bytes.
_DTYPE_OF_STORAGE: Mapping[str, np.dtype[Any]] = {
    **{f"torch.{storage}": dtype for dtype, storage in STORAGE_OF_DTYPE.items()},
    "torch.storage.UntypedStorage": np.dtype("u1"),
}

_STORAGE = 1024  # bytes of a `Storage` with its reader
_READ_PER_CHARGE = 8  # bytes that may be read and freed for each byte that is charged


@dataclass
class Storage:
    """A run of elements in the file; `read` returns some of its bytes, given first and count.

    `compressed`: to read some bytes, all bytes before them are decompressed.
    """

    dtype: np.dtype[Any]
    nbytes: int
    read: Callable[[int, int], np.ndarray]
    compressed: bool = False


class Reader(ABC):
    """Base of both layouts: the globals that a checkpoint may use, and how tensors are rebuilt."""

    def __init__(self, file: BinaryFile) -> None:
        self.file = file
        self.swapped = False  # stored in the other byte order than this machine's
        self._known: dict[str, Constructor] = {
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_v3,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            "torch.nn.parameter.Parameter": lambda data, *_: data,
            "torch.Size": lambda size=(): size,
            "collections.OrderedDict": self._dictionary,
        }

    @abstractmethod
    def load(self) -> Any:
        """Return the saved object."""

    @abstractmethod
    def find_storage(self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]) -> Storage:
        """Return the storage with this key; `rest` is the rest of its entry in the file."""

    def machine(self, data: bytes | mmap.mmap, position: int = 0) -> PickleMachine:
        """Return a machine for a pickle of the file."""
        return PickleMachine(data, self._known, self._open_storage, position, self.file.budget)

    def _open_storage(self, identity: Any) -> Storage:
        """Return the storage of the id ``('storage', type, key, location, numel, ...)``."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise CheckpointError("it refers to objects outside the file")
        self.file.budget.charge(_STORAGE + VALUE * len(identity), "storages")
        _, kind, key, _, numel, *rest = identity
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or name not in _DTYPE_OF_STORAGE:
            raise CheckpointError(f"it holds a storage of the unknown type {str(name)[:80]!r}")
        dtype = _DTYPE_OF_STORAGE[name]
        (numel,) = check_shape((numel,), "a storage")
        key = plain_key(key, self.file.budget)
        return self.find_storage(key, dtype, numel * dtype.itemsize, rest)

    def _dictionary(self, pairs: Any = ()) -> dict[Any, Any]:
        self.file.budget.charge(VALUE * len(pairs), "dictionaries")
        return {plain_key(key, self.file.budget): value for key, value in pairs}

    def _rebuild_from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """Return the plain tensor of a tensor subclass or of a tensor with attributes."""
        if not isinstance(function, Known) or function.construct == self._rebuild_from_type:
            return Inert(getattr(kind, "name", "a tensor subclass"))
        self.file.budget.charge(VALUE * len(arguments), "arguments")
        return function.construct(*arguments)

    def _rebuild_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
    ) -> LazyTensor:
        return self._tensor(storage, offset, size, stride, getattr(storage, "dtype", None))

    def _rebuild_tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> LazyTensor:
        dtype = rest[2]  # after requires_grad and backward_hooks
        name = getattr(dtype, "name", "").removeprefix("torch.")
        return self._tensor(storage, offset, size, stride, _DTYPES.get(name))

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype[Any] | None
    ) -> LazyTensor:
        if not isinstance(storage, Storage) or dtype is None:
            raise CheckpointError("it holds a tensor without a storage or of an unknown dtype")
        (offset,) = check_shape((offset,), "the offset of a tensor")
        shape, strides = check_shape(size, "a tensor"), check_shape(stride, "a tensor's strides")
        if len(shape) != len(strides):
            raise CheckpointError("it holds a tensor whose strides do not match its shape")
        numel = math.prod(shape)
        span = 0  # elements of the storage from the tensor's first to its last
        if numel:
            span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        available = storage.nbytes // dtype.itemsize
        if numel and offset + max(span, numel) > available:
            raise CheckpointError(
                f"a tensor of shape {list(shape)} does not fit its storage of {available} elements"
            )

        # Bytes that are read on the way to it are charged too, at a lower rate.
        passed = offset + span if storage.compressed else span // _READ_PER_CHARGE
        self.file.budget.charge(TENSOR + (numel + passed) * dtype.itemsize, "tensors")

        def elements(first: int, count: int) -> np.ndarray:
            start = (offset + first) * dtype.itemsize
            raw = storage.read(start, count * dtype.itemsize).view(dtype)
            return raw.byteswap() if self.swapped else raw

        if numel == 0 or strides == _row_major(shape, strides):
            row = numel // max(shape[0], 1) if shape else 1

            def rows(first: int, last: int) -> np.ndarray:
                flat = elements(first * row, (last - first) * row)
                return flat.reshape(last - first, *shape[1:])

            return LazyTensor(
                shape,
                dtype,
                lambda: elements(0, numel).reshape(shape),
                None if storage.compressed else rows,
            )

        def strided() -> np.ndarray:
            steps = [step * dtype.itemsize for step in strides]
            view = np.lib.stride_tricks.as_strided(elements(0, span), shape, steps)
            return np.require(view, requirements="C")

        return LazyTensor(shape, dtype, strided)


def _row_major(shape: Shape, strides: Shape) -> Shape:
    """Return whether strides are those of a contiguous array; an axis of length 1 may have any."""
    steps, step = list(strides), 1
    for axis in reversed(range(len(shape))):
        if shape[axis] != 1:
            steps[axis] = step
        step *= shape[axis]
    return tuple(steps)
