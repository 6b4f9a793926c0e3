"""The ``.bin`` files of llm.c (https://github.com/karpathy/llm.c): ``gpt2_124M.bin`` and the like.

A header of 256 int32 (magic, version, sizes), then the parameters, each for all layers at once, in
float32 (version 3) or bfloat16 (version 5). Projections are (out, in); the rows that pad the
vocabulary to a multiple of 128 are dropped.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.binary import BinaryFile
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import BFLOAT16, CanonicalNames
from gpt2x.weights.names import is_projection
from gpt2x.weights.table import Shape

MAGIC = 20240326
_HEADER_INTS = 256
_DTYPES = {3: np.dtype("<f4"), 5: BFLOAT16}
_MAX_SIZE = 2**24


def recognises(start: bytes) -> bool:
    """Whether a file's first bytes are llm.c's."""
    return int.from_bytes(start[:4], "little") == MAGIC


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a model file of llm.c; raises CheckpointError if its size is not what it says."""
    file = BinaryFile(path)
    try:
        header = np.frombuffer(file.read(0, _HEADER_INTS * 4), "<i4").tolist()
        magic, version, positions, vocab, layers, heads, width, padded = header[:8]
        if magic != MAGIC or version not in _DTYPES:
            raise CheckpointError(
                f"{str(path)!r} is of llm.c's version {version}; 3 (float32) and 5 (bfloat16) are "
                "read. Write it again with llm.c's train_gpt2.py."
            )
        sizes = (positions, vocab, layers, heads, width, padded)
        if not all(0 < size <= _MAX_SIZE for size in sizes) or padded < vocab or width % heads:
            raise CheckpointError(f"{str(path)!r} has an impossible header: {sizes}.")
        names = _tensors(file, _DTYPES[version], positions, vocab, layers, width, padded)
    except BaseException:
        file.close()
        raise
    end_of_text = 50256 if vocab > 50256 else None
    config = {
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "n_positions": positions,
        "vocab_size": vocab,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }
    return Checkpoint(
        "llm.c",
        path,
        names.tensors,
        config=config,
        ignored=names.ignored,
        source_names=names.source_names,
        close=file.close,
    )


def _parameters(width: int, positions: int, padded: int) -> dict[str, Shape]:
    """Canonical name -> stored shape; ``*`` stands for every layer."""
    return {
        "wte.weight": (padded, width),
        "wpe.weight": (positions, width),
        "h.*.ln_1.weight": (width,),
        "h.*.ln_1.bias": (width,),
        "h.*.attn.c_attn.weight": (3 * width, width),
        "h.*.attn.c_attn.bias": (3 * width,),
        "h.*.attn.c_proj.weight": (width, width),
        "h.*.attn.c_proj.bias": (width,),
        "h.*.ln_2.weight": (width,),
        "h.*.ln_2.bias": (width,),
        "h.*.mlp.c_fc.weight": (4 * width, width),
        "h.*.mlp.c_fc.bias": (4 * width,),
        "h.*.mlp.c_proj.weight": (width, 4 * width),
        "h.*.mlp.c_proj.bias": (width,),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }


def _tensors(
    file: BinaryFile,
    dtype: np.dtype,
    positions: int,
    vocab: int,
    layers: int,
    width: int,
    padded: int,
) -> CanonicalNames:
    names, offset = CanonicalNames(file.path), _HEADER_INTS * 4
    parameters = _parameters(width, positions, padded)
    total = offset + dtype.itemsize * sum(
        math.prod(shape) * (layers if "*" in name else 1) for name, shape in parameters.items()
    )
    if file.size != total:
        raise CheckpointError(
            f"{str(file.path)!r} should have {total} bytes by its header, and has {file.size}. "
            "Download or copy it again."
        )
    for pattern, shape in parameters.items():
        for layer in range(layers if "*" in pattern else 1):
            name = pattern.replace("*", str(layer))
            rows = (vocab, width) if name == "wte.weight" else shape
            tensor = file.tensor(offset, rows, dtype)
            tensor = tensor.transposed() if is_projection(name) else tensor
            names.add(name, f"bytes from {offset}", tensor)
            offset += math.prod(shape) * dtype.itemsize
    if padded > vocab:
        names.ignore(f"rows {vocab} to {padded - 1} of wte", "padding of the vocabulary")
    return names
