"""The safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes.

Format: https://github.com/huggingface/safetensors#format. The safetensors package reads and checks
the header. Values are read by offset here, since a slice of the package's reads the whole tensor
(5 rows of 100 MiB took 100 MiB with version 0.8) and numpy lacks types of eight bits there. The
writer is our own too: the package's takes all tensors at once, ours one after another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.base import Checkpoint, Progress, WeightsFormat
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import load_json
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.names import Rename, flax_name, pytorch_name, tensorflow_name
from gpt2x.weights.table import PYTORCH

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


def read_file(checkpoint: Checkpoint, path: Path, budget: Budget) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file.

    Raises CheckpointError unless the header is sound and the tensors fill the file exactly.
    """
    file = checkpoint.hold(BinaryFile(path, budget))
    size = int.from_bytes(file.read(0, 8), "little")
    if not 2 <= size <= min(MAX_HEADER_BYTES, file.size - 8):
        raise _corrupt(file, f"its header would take {size} of {file.size} bytes")
    _check_names(file, file.read(8, size))
    tensors, start = {}, 8 + size
    try:
        with safe_open(path, "np", backend="pread") as opened:
            checkpoint.metadata |= opened.metadata() or {}
            for name in opened.offset_keys():  # the package checks that they follow one another
                entry = opened.get_slice(name)
                dtype, shape = DTYPES[entry.get_dtype()], entry.get_shape()
                shape = check_shape(shape, f"{str(path)!r}: {name!r}")
                tensors[name] = file.tensor(start, shape, dtype, f"tensor {name!r}")
                start += tensors[name].nbytes
    except SafetensorError as error:
        why = str(error).removeprefix("Error while deserializing header: ")
        raise _corrupt(file, why) from error
    except KeyError as error:
        raise _corrupt(file, f"it holds a tensor of the unknown dtype {error}") from None
    return tensors


def _rename(metadata: Mapping[str, Any]) -> Rename:
    """Return the function that reads names; ``metadata["format"]`` names their framework."""
    return {"tf": tensorflow_name, "flax": flax_name}.get(str(metadata.get("format")), pytorch_name)


def _check_names(file: BinaryFile, header: bytes) -> None:
    """Charge for the header, and refuse a name that occurs twice; the package would take one."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            raise _corrupt(file, "its header names a tensor twice")

    try:
        load_json(header.decode("utf-8"), file.budget, object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _corrupt(file, "its header is not valid JSON") from error


def _corrupt(file: BinaryFile, why: str) -> CheckpointError:
    return CheckpointError(
        f"{str(file.path)!r} is truncated or corrupt: {why}. Download or copy it again."
    )


def write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

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


FORMAT = WeightsFormat(
    name="safetensors",
    rank=110,
    place=1,
    weights="model.safetensors",
    patterns=("*.safetensors",),
    recognises=lambda file: file.start[8:9] == b"{",
    read_file=read_file,
    rename=_rename,
    write_file=lambda path, tensors, aliases, progress: write(
        path, tensors, {"format": "pt"}, progress
    ),
    spelling=PYTORCH,
)
