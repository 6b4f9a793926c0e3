"""The ``.bin`` files of llm.c (https://github.com/karpathy/llm.c): ``gpt2_124M.bin`` and the like.

A header of 256 int32 (magic, version, sizes), then the parameters, each for all layers at once, in
float32 (version 3) or bfloat16 (version 5). Projections are (out, in); the rows that pad the
vocabulary to a multiple of 128 are dropped.
"""

from __future__ import annotations

import math

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, Format
from gpt2x.formats.binary import BinaryFile
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.infer import end_of_text_ids
from gpt2x.weights.lazy import BFLOAT16
from gpt2x.weights.names import out_in, to_canonical
from gpt2x.weights.table import Shape

MAGIC = 20240326
_HEADER_INTS = 256
_DTYPES = {3: np.dtype("<f4"), 5: BFLOAT16}
_MAX_SIZE = 2**24


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a model file of llm.c; raises CheckpointError if its size is not what it says."""
    path, file = checkpoint.path, checkpoint.hold(BinaryFile(checkpoint.path))
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
    _add_tensors(checkpoint, file, _DTYPES[version], layers, vocab, _parameters(*sizes))
    if padded > vocab:
        checkpoint.ignored[f"rows {vocab} to {padded - 1} of wte"] = "padding of the vocabulary"
    checkpoint.config = {
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "n_positions": positions,
        "vocab_size": vocab,
        **end_of_text_ids(vocab),
    }


def _parameters(
    positions: int, vocab: int, layers: int, heads: int, width: int, padded: int
) -> dict[str, Shape]:
    """Return canonical name -> stored shape; ``*`` means every layer."""
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


def _add_tensors(
    checkpoint: Checkpoint,
    file: BinaryFile,
    dtype: np.dtype,
    layers: int,
    vocab: int,
    parameters: dict[str, Shape],
) -> None:
    offset = _HEADER_INTS * 4
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
            rows = (vocab, *shape[1:]) if name == "wte.weight" else shape
            tensor = to_canonical(file.tensor(offset, rows, dtype), out_in(name))
            checkpoint.add(name, f"bytes from {offset}", tensor)
            offset += math.prod(shape) * dtype.itemsize


FORMAT = Format(
    name="llm.c",
    rank=60,
    recognises=lambda file: int.from_bytes(file.start[:4], "little") == MAGIC,
    read=_read,
)
