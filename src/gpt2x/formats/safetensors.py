"""The safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes.

Format: https://github.com/huggingface/safetensors#format. Read here by offset and not through the
safetensors package, whose memory map (reading) and whole-file dictionary (writing) would each
double the memory that loading or converting a model takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.base import RawFile
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import load_json
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.names import Rename, flax_name, pytorch_name, tensorflow_name

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors package
_ALIGNMENT = 8

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def open_raw(path: Path, budget: Budget | None = None) -> RawFile:
    """Open one safetensors file.

    Raises CheckpointError unless the header is sound and the tensors fill the file exactly.
    """
    file = BinaryFile(path, budget)
    try:
        tensors, metadata = _read_header(file)
    except BaseException:
        file.close()
        raise
    return RawFile(tensors, metadata, file.close)


def rename(metadata: Mapping[str, Any]) -> Rename:
    """How to read names: ``metadata["format"]`` tells which framework's they are."""
    return {"tf": tensorflow_name, "flax": flax_name}.get(str(metadata.get("format")), pytorch_name)


def _read_header(file: BinaryFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    header_size = int.from_bytes(file.read(0, 8), "little")
    if not 2 <= header_size <= min(MAX_HEADER_BYTES, file.size - 8):
        raise _corrupt(file, f"its header would take {header_size} of {file.size} bytes")
    header = _parse_header(file, file.read(8, header_size))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _corrupt(file, "its __metadata__ is not an object")
    start, tensors, spans = 8 + header_size, {}, []
    for name, entry in header.items():
        try:
            dtype, shape = DTYPES[entry["dtype"]], check_shape(entry["shape"], f"Tensor {name!r}")
            first, last = entry["data_offsets"]
            plain = isinstance(first, int) and isinstance(last, int)
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(file, f"the header's entry for {name!r} cannot be used") from error
        tensor = file.tensor(start + first, shape, dtype, f"tensor {name!r}") if plain else None
        if tensor is None or last - first != tensor.nbytes:
            raise _corrupt(file, f"the offsets of {name!r} do not fit its shape and dtype")
        tensors[name] = tensor
        spans.append((first, last))
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise _corrupt(file, "its tensors overlap or leave a gap")
        end = last
    if start + end != file.size:
        raise _corrupt(file, f"its tensors end at byte {start + end} of {file.size}")
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _parse_header(file: BinaryFile, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise _corrupt(file, "its header names a tensor twice")
        return found

    try:
        header = load_json(data.decode("utf-8"), file.budget, object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _corrupt(file, "its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(file, "its header is not a JSON object")
    return header


def _corrupt(file: BinaryFile, why: str) -> CheckpointError:
    return CheckpointError(f"{str(file.path)!r} is not a sound safetensors file: {why}.")


def write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write one safetensors file, holding one tensor in memory at a time.

    `progress` is called with each tensor's bytes once they are written. transformers' TensorFlow
    and Flax loaders demand ``metadata["format"]``: write ``"pt"``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # The format's own writer puts wider elements first, which keeps every tensor aligned.
    ordered = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    offset = 0
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise InvalidInputError(f"safetensors cannot hold {name!r}: dtype {tensor.dtype}.")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            for block in tensors[name].blocks():
                little = block.astype(block.dtype.newbyteorder("<"), order="C", copy=False)
                stream.write(little.reshape(-1).view(np.uint8).data)
            progress(tensors[name].nbytes)
