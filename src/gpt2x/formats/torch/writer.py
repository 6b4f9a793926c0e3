"""Writing files that ``torch.load(weights_only=True)`` reads, without torch.

The zip archive described in `gpt2x.formats.torch.serialization`. Its pickle names torch's
functions, which Python's own pickler would want to import; so the few opcodes needed are written
here.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.formats.base import Progress
from gpt2x.formats.torch.tensors import STORAGE_OF_DTYPE
from gpt2x.weights.lazy import LazyTensor

_FOLDER = "archive"
_ALIGNMENT = 64  # of each storage in the file, as torch aligns them for memory maps
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    aliases: Mapping[str, str] | None = None,
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write a state dict. `aliases` are names of tensors that share the storage of another.

    One tensor is in memory at a time; `progress` is called with each tensor's bytes.
    """
    state = dict(tensors)
    state |= {alias: tensors[name] for alias, name in (aliases or {}).items()}
    write_object(path, state, progress)


def write_object(path: Path, saved: Any, progress: Progress = lambda nbytes: None) -> None:
    """Write dicts, lists, tuples, strings, numbers, booleans and None, with `LazyTensor` in them.

    A tensor that occurs twice is stored once.
    """
    pickler = _Pickler()
    pickler.save(saved)
    data = b"".join([pickle.PROTO + b"\x02", *pickler.parts, pickle.STOP])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "data.pkl", len(data), [data])
        _write_entry(archive, "byteorder", 6, [b"little"])
        for key, tensor in enumerate(pickler.tensors):
            _write_entry(archive, f"data/{key}", tensor.nbytes, _little_endian(tensor))
            progress(tensor.nbytes)
        _write_entry(archive, "version", 2, [b"3\n"])


def _little_endian(tensor: LazyTensor) -> Iterable[memoryview]:
    for block in tensor.blocks():
        little = block.astype(block.dtype.newbyteorder("<"), order="C", copy=False)
        yield little.reshape(-1).view(np.uint8).data


def _write_entry(
    archive: zipfile.ZipFile, name: str, size: int, blocks: Iterable[bytes | memoryview]
) -> None:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}", date_time=_ZIP_EPOCH)
    info.file_size = size
    large = size >= zipfile.ZIP64_LIMIT
    # An extra field of zeros, with torch's own tag, moves the data to an aligned offset.
    header = archive.fp.tell() + 30 + len(info.filename) + 4 + (20 if large else 0)  # type: ignore[union-attr]
    padding = -header % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"\0" * padding
    with archive.open(info, "w", force_zip64=large) as stream:
        for block in blocks:
            stream.write(block)


class _Pickler:
    """Collects the opcodes of one object in `parts`, and the tensors it refers to in `tensors`."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.tensors: list[LazyTensor] = []
        self._keys: dict[int, int] = {}

    def save(self, value: Any) -> None:
        if value is None:
            self.parts.append(pickle.NONE)
        elif isinstance(value, bool):
            self.parts.append(pickle.NEWTRUE if value else pickle.NEWFALSE)
        elif isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.parts.append(pickle.LONG1 + bytes([len(data)]) + data)
        elif isinstance(value, float):
            self.parts.append(pickle.BINFLOAT + struct.pack(">d", value))
        elif isinstance(value, str):
            data = value.encode("utf-8")
            self.parts.append(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)
        elif isinstance(value, LazyTensor):
            self._save_tensor(value)
        elif isinstance(value, tuple | list):
            # torch's restricted unpickler knows APPENDS, but not the older LIST.
            is_tuple = isinstance(value, tuple)
            self.parts.append(b"" if is_tuple else pickle.EMPTY_LIST)
            self.parts.append(pickle.MARK)
            for item in value:
                self.save(item)
            self.parts.append(pickle.TUPLE if is_tuple else pickle.APPENDS)
        elif isinstance(value, Mapping):
            self.parts.append(pickle.EMPTY_DICT + pickle.MARK)
            for key, item in value.items():
                self.save(key)
                self.save(item)
            self.parts.append(pickle.SETITEMS)
        else:
            raise InvalidInputError(f"A PyTorch checkpoint cannot hold {type(value).__name__}.")

    def _global(self, module: str, name: str) -> None:
        self.parts.append(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def _save_tensor(self, tensor: LazyTensor) -> None:
        if tensor.dtype not in STORAGE_OF_DTYPE:
            raise InvalidInputError(f"A PyTorch checkpoint cannot hold dtype {tensor.dtype}.")
        if id(tensor) not in self._keys:
            self._keys[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        self._global("torch._utils", "_rebuild_tensor_v2")
        self.parts.append(pickle.MARK)
        # The storage, by a persistent id.
        self.parts.append(pickle.MARK)
        self.save("storage")
        self._global("torch", STORAGE_OF_DTYPE[tensor.dtype])
        for storage in (str(self._keys[id(tensor)]), "cpu", tensor.size):
            self.save(storage)
        self.parts.append(pickle.TUPLE + pickle.BINPERSID)
        # Offset, size, strides, requires_grad, backward hooks.
        for argument in (0, tensor.shape, tuple(strides), False):
            self.save(argument)
        self._global("collections", "OrderedDict")
        self.parts.append(pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE)
