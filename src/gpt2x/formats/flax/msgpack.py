"""``flax_model.msgpack``: the parameters of a Flax model, as Flax serialises them.

MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md) of nested maps; a leaf is an
extension of type 1 that holds ``[shape, dtype name, bytes]``, itself MessagePack. Arrays beyond a
gigabyte are split into ``{"__msgpack_chunked_array__": true, "shape": {...}, "chunks": {...}}``,
pieces of the flattened array. Source: ``flax/serialization.py``. The msgpack package would hold the
whole file in memory, so the format is read and written here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, Progress, UnknownFile, WeightsFormat, reading
from gpt2x.formats.binary import MAX_DIMENSIONS, BinaryFile, check_shape
from gpt2x.storage.budget import VALUE, Budget
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.names import flax_name
from gpt2x.weights.table import FLAX

_ARRAY, _SCALAR = 1, 3  # extension types; 2 is a complex number
_CHUNKED = "__msgpack_chunked_array__"
_CHUNK_BYTES = 2**30  # as Flax writes them
_MAX_DEPTH = 64
_MAX_TEXT = 2**16
_VALUE = 4 * VALUE  # charge for reaching a value, in memory and time


def read_file(checkpoint: Checkpoint, path: Path, budget: Budget) -> dict[str, LazyTensor]:
    """Return the arrays of a file; raises CheckpointError if it is damaged or of another kind."""
    file = checkpoint.hold(BinaryFile(path, budget))
    tensors: dict[str, LazyTensor] = {}
    with reading(path, "Flax checkpoint"):
        tree, end = _Walker(file).value(0)
        if end != file.size or not isinstance(tree, dict):
            raise CheckpointError("it is not a single map of parameters")
        _flatten(tree, "", tensors, file.budget)
    return tensors


def _recognises(file: UnknownFile) -> bool:
    """Whether it starts with a map."""
    first = file.start[0] if file.start else 0
    return first & 0xF0 == 0x80 or first in (0xDE, 0xDF)


def _flatten(tree: Any, path: str, tensors: dict[str, LazyTensor], budget: Budget) -> None:
    budget.charge(2 * len(path), "names")  # they repeat the keys of the maps around them
    if isinstance(tree, LazyTensor):
        tensors[path] = tree
    elif isinstance(tree, dict) and _CHUNKED in tree:
        tensors[path] = _joined(tree)
    elif isinstance(tree, dict):
        for name, branch in tree.items():
            _flatten(branch, f"{path}/{name}" if path else str(name), tensors, budget)
    else:
        raise CheckpointError(f"{path!r} is not an array")


def _joined(tree: dict[Any, Any]) -> LazyTensor:
    """Return the large array that consists of these chunks."""
    shape_map, chunk_map = tree.get("shape"), tree.get("chunks")
    if not isinstance(shape_map, dict) or not isinstance(chunk_map, dict) or not chunk_map:
        raise CheckpointError("a chunked array lacks its shape or chunks")
    try:
        sizes = [shape_map[str(axis)] for axis in range(len(shape_map))]
        chunks = [chunk_map[str(number)] for number in range(len(chunk_map))]
    except KeyError as error:
        raise CheckpointError(f"a chunked array lacks its part {error}") from error
    shape = check_shape(sizes, "a chunked array")
    if not all(isinstance(chunk, LazyTensor) for chunk in chunks):
        raise CheckpointError("a chunk of an array is not an array")
    dtype = chunks[0].dtype
    if sum(chunk.size for chunk in chunks) != math.prod(shape) or any(
        chunk.dtype != dtype for chunk in chunks
    ):
        raise CheckpointError("the chunks of an array do not fill its shape")

    def read() -> np.ndarray:
        array, start = np.empty(math.prod(shape), dtype), 0
        for chunk in chunks:
            array[start : start + chunk.size] = chunk.read().reshape(-1)
            start += chunk.size
        return array.reshape(shape)

    return LazyTensor(shape, dtype, read)


class _Bytes(NamedTuple):
    """Bytes in the file: offset and length."""

    at: int
    size: int


class _Walker:
    """Reads MessagePack values at offsets; the bytes of arrays stay in the file."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file

    def value(self, at: int, depth: int = 0) -> tuple[Any, int]:
        """Return the value at an offset, and the offset after it."""
        if depth > _MAX_DEPTH:
            raise CheckpointError("its maps are nested beyond reason")
        self._file.budget.charge(_VALUE, "values")
        code = self._file.read(at, 1)[0]
        if code <= 0x7F:
            return code, at + 1
        if code >= 0xE0:
            return code - 256, at + 1
        if code <= 0x8F:
            return self._map(at + 1, code & 0x0F, depth)
        if code <= 0x9F:
            return self._array(at + 1, code & 0x0F, depth)
        if code <= 0xBF:
            return self._text(at + 1, code & 0x1F)
        if code in _CONSTANTS:
            return _CONSTANTS[code], at + 1
        if code in _NUMBERS:
            format = _NUMBERS[code]
            return self._number(at + 1, format), at + 1 + struct.calcsize(format)
        if code in _SIZED:
            kind, format = _SIZED[code]
            size = self._number(at + 1, format) if format else 1 << (code - 0xD4)
            start = at + 1 + (struct.calcsize(format) if format else 0)
            if kind == "ext":
                return self._extension(start, size, depth)
            if kind == "text":
                return self._text(start, size)
            if kind == "bytes":
                return self._bytes(start, size)
            return (self._map if kind == "map" else self._array)(start, size, depth)
        raise CheckpointError(f"byte {code:#x} at {at} starts no MessagePack value")

    def _number(self, at: int, format: str) -> Any:
        return struct.unpack(format, self._file.read(at, struct.calcsize(format)))[0]

    def _text(self, at: int, size: int) -> tuple[str, int]:
        if size > _MAX_TEXT:
            raise CheckpointError(f"it holds a name of {size} bytes")
        self._file.budget.charge(4 * size, "names")  # bytes of the widest characters
        try:
            return self._file.read(at, size).decode("utf-8"), at + size
        except UnicodeDecodeError as error:
            raise CheckpointError("it holds a name that is not UTF-8") from error

    def _bytes(self, at: int, size: int) -> tuple[_Bytes, int]:
        self._file.check_range(at, size, "an array")
        return _Bytes(at, size), at + size

    def _array(self, at: int, count: int, depth: int) -> tuple[list[Any], int]:
        if count > MAX_DIMENSIONS:  # the longest list in a sound file is an array's shape
            raise CheckpointError(f"it holds a list of {count} values in place of parameters")
        items = []
        for _ in range(count):
            item, at = self.value(at, depth + 1)
            items.append(item)
        return items, at

    def _map(self, at: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
        items: dict[Any, Any] = {}
        for _ in range(count):
            key, at = self.value(at, depth + 1)
            item, at = self.value(at, depth + 1)
            if not isinstance(key, str | int) or key in items:
                raise CheckpointError(f"a map has the impossible or repeated key {key!r:.80}")
            items[key] = item
        return items, at

    def _extension(self, at: int, size: int, depth: int) -> tuple[Any, int]:
        kind = self._file.read(at, 1)[0]
        start, end = at + 1, at + 1 + size
        if kind not in (_ARRAY, _SCALAR):
            raise CheckpointError(f"it holds an extension of the unknown type {kind}")
        parts, stop = self.value(start, depth + 1)
        if stop != end or not isinstance(parts, list) or len(parts) != 3:
            raise CheckpointError("an array is damaged")
        shape, name, raw = parts
        shape = check_shape(shape, "an array")
        dtype = _dtype(name)
        if not isinstance(raw, _Bytes) or raw.size != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"an array of shape {list(shape)} has another number of bytes")
        return self._file.tensor(raw.at, shape, dtype, "an array"), end


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZED = {
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD4: ("ext", ""), 0xD5: ("ext", ""), 0xD6: ("ext", ""), 0xD7: ("ext", ""), 0xD8: ("ext", ""),
    0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"),
    0xDC: ("list", ">H"), 0xDD: ("list", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip


def _dtype(name: Any) -> np.dtype[Any]:
    if name == "bfloat16":
        return BFLOAT16
    if name in ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"):
        return np.dtype(name).newbyteorder("<")
    raise CheckpointError(f"an array has the unknown dtype {name!r:.40}")


def write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write parameters by their paths (``transformer/wte/embedding``), one in memory at a time."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, leaf = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = tensor
    with open(path, "wb") as stream:
        _write_tree(stream, tree, progress)


def _write_tree(stream: BinaryIO, tree: Any, progress: Progress) -> None:
    if isinstance(tree, dict):
        stream.write(struct.pack(">BI", 0xDF, len(tree)))
        for name, branch in tree.items():
            stream.write(_packed_text(name))
            _write_tree(stream, branch, progress)
        return
    array = np.ascontiguousarray(tree.read())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.nbytes <= _CHUNK_BYTES:
        _write_array(stream, array)
    else:
        _write_chunks(stream, array)
    progress(array.nbytes)


def _write_chunks(stream: BinaryIO, array: np.ndarray) -> None:
    step = _CHUNK_BYTES // array.itemsize
    pieces = [array.reshape(-1)[start : start + step] for start in range(0, array.size, step)]
    stream.write(struct.pack(">BI", 0xDF, 3) + _packed_text(_CHUNKED) + b"\xc3")
    stream.write(_packed_text("shape") + struct.pack(">BI", 0xDF, array.ndim))
    for axis, length in enumerate(array.shape):
        stream.write(_packed_text(str(axis)) + struct.pack(">BQ", 0xCF, length))
    stream.write(_packed_text("chunks") + struct.pack(">BI", 0xDF, len(pieces)))
    for number, piece in enumerate(pieces):
        stream.write(_packed_text(str(number)))
        _write_array(stream, piece)


def _write_array(stream: BinaryIO, array: np.ndarray) -> None:
    lengths = b"".join(struct.pack(">BQ", 0xCF, length) for length in array.shape)
    header = b"\x93" + struct.pack(">BI", 0xDD, array.ndim) + lengths
    header += _packed_text(array.dtype.name) + struct.pack(">BI", 0xC6, array.nbytes)
    stream.write(struct.pack(">BIb", 0xC9, len(header) + array.nbytes, _ARRAY) + header)
    stream.write(array.reshape(-1).view(np.uint8).data)


def _packed_text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack(">BI", 0xDB, len(data)) + data


FORMAT = WeightsFormat(
    name="flax-msgpack",
    rank=120,
    place=4,
    weights="flax_model.msgpack",
    patterns=("*.msgpack",),
    recognises=_recognises,
    read_file=read_file,
    rename=lambda metadata: flax_name,
    write_file=lambda path, tensors, aliases, progress: write(path, tensors, progress),
    spelling=FLAX,
    separator="/",
)
