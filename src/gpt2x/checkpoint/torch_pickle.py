"""Files of ``torch.save``, read without torch and without running what they contain.

Two layouts. Since torch 1.6 a zip archive: ``data.pkl`` holds the objects, ``data/KEY`` the raw
bytes of each storage, ``byteorder`` their byte order. Before that (and with
``_use_new_zipfile_serialization=False``) a sequence of pickles, after which the storages follow
one another, each behind its length. Either way a tensor is a call of
``torch._utils._rebuild_tensor_v2`` on a storage, an offset, a size and strides; several tensors may
share a storage.

Source of the formats: ``torch/serialization.py`` and ``torch/_utils.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from gpt2x.checkpoint.base import (
    BFLOAT16,
    LazyTensor,
    RawFile,
)
from gpt2x.checkpoint.binary import BinaryFile, check_shape
from gpt2x.checkpoint.names import Rename, pytorch_name
from gpt2x.checkpoint.pickle_machine import (
    Constructor,
    Inert,
    Known,
    PickleMachine,
    plain_key,
)
from gpt2x.errors import CheckpointError
from gpt2x.weights import Shape

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

LITTLE_ENDIAN = sys.byteorder == "little"

# Deflate shrinks weights by a few per cent; what shrinks a hundredfold was made to swell.
_MAX_COMPRESSION = 100

# Under which key training scripts keep the weights, beside optimizer and progress.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")

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


# The classes of storages, which stand for a dtype. An untyped storage counts bytes.
_DTYPE_OF_STORAGE: Mapping[str, np.dtype[Any]] = {
    **{f"torch.{storage}": dtype for dtype, storage in STORAGE_OF_DTYPE.items()},
    "torch.storage.UntypedStorage": np.dtype("u1"),
}


@dataclass
class _Storage:
    """A run of elements in the file; `read` returns some of its bytes, given first and count."""

    dtype: np.dtype[Any]
    nbytes: int
    read: Callable[[int, int], np.ndarray]


def open_raw(path: Path) -> RawFile:
    """Open one file that holds a state dict, bare or under a training script's usual key."""
    file = BinaryFile(path)
    try:
        return RawFile(state_dict(load(file), file.path), {}, file.close)
    except BaseException:
        file.close()
        raise


def rename(metadata: Mapping[str, Any]) -> Rename:
    """How to read names."""
    return pytorch_name


def state_dict(saved: Any, path: Path) -> dict[str, LazyTensor]:
    """The tensors of a saved state dict; its scalars (epochs, versions) are left out.

    Raises CheckpointError where something else stands in place of a tensor.
    """
    for key in _STATE_DICT_KEYS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not any(isinstance(v, LazyTensor) for v in saved.values()):
        raise CheckpointError(f"{str(path)!r} holds no state dict: no tensors by name.")
    for name, value in saved.items():
        if isinstance(value, Inert) or not isinstance(name, str):
            raise CheckpointError(
                f"{str(path)!r} holds {value!r:.100} as {name!r:.80}, where a tensor is needed. "
                "Objects of other classes are never loaded from a checkpoint."
            )
    return {name: value for name, value in saved.items() if isinstance(value, LazyTensor)}


def load(file: BinaryFile) -> Any:
    """Return the object saved in a file: containers and scalars, with `LazyTensor` for tensors.

    An object of any other class becomes an `Inert` record. Raises CheckpointError for a file that
    is corrupt, truncated, or claims more than it can hold.
    """
    start = file.read(0, min(2, file.size))
    if start == b"PK":
        reader: _Reader = _ZipReader(file)
    elif start[:1] in (b"\x80", b"(", b"L", b"I"):  # what a first pickle of any protocol opens with
        reader = _LegacyReader(file)
    else:
        raise CheckpointError(
            f"{str(file.path)!r} is neither a zip archive nor a pickle, as torch.save writes them."
        )
    try:
        return reader.load()
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(file.path)!r} is not a sound PyTorch checkpoint: {error}."
        ) from error


class _Reader:
    """What both layouts share: the globals a checkpoint may use, and how tensors are rebuilt."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self._swapped = False  # stored in the other byte order than this machine's
        # A dictionary built from a list copies it; the copies may hold no more than the file.
        self._copies_left = file.size
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

    def load(self) -> Any:
        raise NotImplementedError

    def _machine(self, data: bytes | mmap.mmap, position: int = 0) -> PickleMachine:
        return PickleMachine(data, self._known, self._open_storage, position)

    def _open_storage(self, identity: Any) -> _Storage:
        """Turn the id ``('storage', type, key, location, numel, ...)`` into the storage."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise CheckpointError("it refers to objects outside the file")
        _, kind, key, _, numel, *rest = identity
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or name not in _DTYPE_OF_STORAGE:
            raise CheckpointError(f"it holds a storage of the unknown type {str(name)[:80]!r}")
        dtype = _DTYPE_OF_STORAGE[name]
        (numel,) = check_shape((numel,), "a storage")
        return self._find_storage(plain_key(key), dtype, numel * dtype.itemsize, rest)

    def _find_storage(
        self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]
    ) -> _Storage:
        raise NotImplementedError

    def _dictionary(self, pairs: Any = ()) -> dict[Any, Any]:
        self._copies_left -= len(pairs)
        if self._copies_left < 0:
            raise CheckpointError("it builds more objects than it has bytes")
        return {plain_key(key): value for key, value in pairs}

    def _rebuild_from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """A tensor subclass or a tensor with attributes; the tensor under it is what counts."""
        if not isinstance(function, Known) or function.construct == self._rebuild_from_type:
            return Inert(getattr(kind, "name", "a tensor subclass"))
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
        if not isinstance(storage, _Storage) or dtype is None:
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

        def elements(first: int, count: int) -> np.ndarray:
            start = (offset + first) * dtype.itemsize
            raw = storage.read(start, count * dtype.itemsize).view(dtype)
            return raw.byteswap() if self._swapped else raw

        if numel == 0 or strides == _row_major(shape, strides):
            row = numel // max(shape[0], 1) if shape else 1
            return LazyTensor(
                shape,
                dtype,
                lambda: elements(0, numel).reshape(shape),
                lambda first, last: elements(first * row, (last - first) * row).reshape(
                    last - first, *shape[1:]
                ),
            )

        def strided() -> np.ndarray:
            steps = [step * dtype.itemsize for step in strides]
            view = np.lib.stride_tricks.as_strided(elements(0, span), shape, steps)
            return np.require(view, requirements="C")

        return LazyTensor(shape, dtype, strided)


def _row_major(shape: Shape, strides: Shape) -> Shape:
    """The strides of a contiguous array; where an axis has length 1, any stride will do."""
    steps, step = list(strides), 1
    for axis in reversed(range(len(shape))):
        if shape[axis] != 1:
            steps[axis] = step
        step *= shape[axis]
    return tuple(steps)


class _ZipReader(_Reader):
    """The zip archive of torch 1.6 and later."""

    def load(self) -> Any:
        try:
            with zipfile.ZipFile(self._file.path) as archive:
                self._entries = {info.filename: info for info in archive.infolist()}
                pickled = next((n for n in self._entries if n.rpartition("/")[2] == "data.pkl"), "")
                if not pickled:
                    raise CheckpointError("the archive has no data.pkl")
                self._folder = pickled.removesuffix("data.pkl")
                order = self._entries.get(f"{self._folder}byteorder")
                stored = self._unpack(order, archive).decode() if order else "little"
                self._swapped = stored != ("little" if LITTLE_ENDIAN else "big")
                return self._machine(self._unpack(self._entries[pickled], archive)).load()
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise CheckpointError(f"the zip archive is damaged or truncated ({error})") from error

    def _find_storage(
        self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]
    ) -> _Storage:
        info = self._entries.get(f"{self._folder}data/{key}")
        if info is None:
            raise CheckpointError(f"the archive lacks the storage {str(key)[:80]!r}")
        self._check(info)
        if info.file_size < nbytes:
            raise CheckpointError(
                f"the storage {info.filename!r} should have {nbytes} bytes and has {info.file_size}"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            return _Storage(dtype, nbytes, lambda first, count: self._inflate(info, first, count))
        start = self._data_offset(info)
        self._file.tensor(start, (nbytes,), np.dtype("u1"), f"the storage {info.filename!r}")
        return _Storage(
            dtype,
            nbytes,
            lambda first, count: self._file.array(start + first, (count,), np.dtype("u1")),
        )

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        header = self._file.read(info.header_offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"the archive's entry {info.filename!r} has no header")
        return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def _check(self, info: zipfile.ZipInfo) -> None:
        if (
            info.compress_size > self._file.size
            or info.file_size > _MAX_COMPRESSION * info.compress_size + 1024
        ):
            raise CheckpointError(
                f"the archive's entry {info.filename!r} claims {info.file_size} bytes, more than "
                "the file can hold"
            )

    def _unpack(self, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> bytes:
        self._check(info)
        return archive.read(info)

    def _inflate(self, info: zipfile.ZipInfo, first: int, count: int) -> np.ndarray:
        """Read part of a compressed entry, which torch itself never writes."""
        try:
            with zipfile.ZipFile(self._file.path) as archive, archive.open(info) as stream:
                stream.seek(first)
                data = stream.read(count)
        except _DAMAGE as error:
            raise CheckpointError(
                f"{str(self._file.path)!r}: the entry {info.filename!r} is damaged ({error})."
            ) from error
        if len(data) != count:
            raise CheckpointError(
                f"{str(self._file.path)!r}: the entry {info.filename!r} ends early."
            )
        return np.frombuffer(data, np.uint8).copy()  # writable, as every array that is read


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    RuntimeError,  # an encrypted entry; NotImplementedError: an unknown compression
)


class _LegacyReader(_Reader):
    """The pickles of torch before 1.6: magic, protocol, system, object, storage keys."""

    def __init__(self, file: BinaryFile) -> None:
        super().__init__(file)
        self._storages: dict[Any, _Storage] = {}
        self._offsets: dict[Any, int] = {}

    def load(self) -> Any:
        with (
            open(self._file.path, "rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            magic, position = self._pickle(data, 0)
            if magic != LEGACY_MAGIC:
                raise CheckpointError("it is a pickle, but none that torch.save writes")
            protocol, position = self._pickle(data, position)
            if protocol != LEGACY_PROTOCOL:
                raise CheckpointError(f"it is of the unknown protocol {protocol!r:.40}")
            system, position = self._pickle(data, position)
            little = not isinstance(system, dict) or system.get("little_endian", True) is True
            self._swapped = little != LITTLE_ENDIAN
            loaded, position = self._pickle(data, position)
            keys, position = self._pickle(data, position)
        self._place_storages(keys, position, "little" if little else "big")
        return loaded

    def _pickle(self, data: mmap.mmap, position: int) -> tuple[Any, int]:
        machine = self._machine(data, position)
        return machine.load(), machine.position

    def _place_storages(self, keys: Any, position: int, order: Literal["little", "big"]) -> None:
        """Find where each storage starts: they follow one another, each behind its length."""
        if not isinstance(keys, list):
            raise CheckpointError("its list of storages is missing")
        for key in keys:
            storage = self._storages.get(plain_key(key))
            if storage is None or key in self._offsets:
                raise CheckpointError(f"its list of storages has the unknown key {key!r:.80}")
            numel = int.from_bytes(self._file.read(position, 8), order)
            if numel * storage.dtype.itemsize != storage.nbytes:
                raise CheckpointError(
                    f"the storage {key!r:.80} has another length than its tensors"
                )
            self._file.tensor(position + 8, (storage.nbytes,), np.dtype("u1"), "a storage")
            self._offsets[key] = position + 8
            position += 8 + storage.nbytes
        if missing := self._storages.keys() - self._offsets.keys():
            raise CheckpointError(f"it lacks {len(missing)} of its storages")

    def _find_storage(
        self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]
    ) -> _Storage:
        def read(first: int, count: int) -> np.ndarray:
            return self._file.array(self._offsets[key] + first, (count,), np.dtype("u1"))

        if nbytes > self._file.size:
            raise CheckpointError(f"a storage of {nbytes} bytes cannot be in a file of this size")
        storage = self._storages.setdefault(key, _Storage(dtype, nbytes, read))
        if storage.dtype != dtype or storage.nbytes != nbytes:
            raise CheckpointError(f"the storage {key!r:.80} is described in two ways")
        if not rest or rest[0] is None:
            return storage
        # A view of part of a storage, as torch before 0.4 wrote it: (key, offset, size).
        view, offset, numel = rest[0]
        start, length = (
            n * dtype.itemsize for n in check_shape((offset, numel), f"view {view!r:.80}")
        )
        if start + length > nbytes:
            raise CheckpointError(f"the view {view!r:.80} reaches beyond its storage")
        return _Storage(dtype, length, lambda first, count: read(start + first, count))
