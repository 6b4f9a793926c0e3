"""Writing GGUF files for llama.cpp; `gpt2x.formats.gguf.layout` describes the format.

As llama.cpp's own converter does, norms, biases and position embeddings are always written in F32.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2x.errors import WeightsError, check_choice
from gpt2x.formats.base import Progress, check_fields
from gpt2x.formats.gguf.layout import (
    ALIGNMENT,
    ARCHITECTURE,
    ARRAY,
    BLOCK,
    BLOCK_DTYPE,
    DTYPES,
    FLOAT32,
    MAGIC,
    MODULES,
    NUMBERS,
    Q8_0,
    STRING,
    TYPES,
    UINT32,
    VERSION,
)
from gpt2x.formats.gguf.tokenizer import to_pairs
from gpt2x.weights.lazy import BLOCK_BYTES, LazyTensor
from gpt2x.weights.names import is_projection
from gpt2x.weights.table import Shape

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config
    from gpt2x.tokenization import GPT2Tokenizer


def _module(name: str) -> str:
    """``h.0.attn.c_attn.weight`` -> ``attn.c_attn``."""
    return re.sub(r"^h\.\d+\.", "", name.rpartition(".")[0])


def _spell(name: str) -> str:
    """``h.0.attn.c_attn.weight`` -> ``blk.0.attn_qkv.weight``."""
    layer = re.match(r"h\.(\d+)\.", name)
    prefix = f"blk.{layer[1]}." if layer else ""
    return f"{prefix}{MODULES[_module(name)]}.{name.rpartition('.')[2]}"


def write(
    path: Path,
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor],
    *,
    type: str = "f16",
    tokenizer: GPT2Tokenizer | None = None,
    name: str = "gpt2",
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write a GGUF file that llama.cpp runs.

    Args:
        path: the file.
        config: the model's.
        tensors: canonical name -> tensor, of the body and an untied output layer.
        type: one of `TYPES`, for the matrices. Q8_0 becomes F16 if a row is not a multiple of 32.
        tokenizer: for the file; without it llama.cpp takes and gives ids, not text.
        name: the model's name, for users.
        progress: called with each tensor's bytes once they are written.

    Raises:
        InvalidInputError: for an unknown type.
        WeightsError: for a model that llama.cpp's gpt2 cannot express.
    """
    check_choice("type", type, TYPES)
    check(config, tensors)
    if config.tie_word_embeddings:
        tensors = {key: value for key, value in tensors.items() if key != "lm_head.weight"}
    types = {name: number for name, (number, _) in TYPES.items()}
    plan = [(k, _spell(k), types[stored_type(k, tensor, type)]) for k, tensor in tensors.items()]
    pairs = _pairs(config, type, name) | to_pairs(tokenizer, config)
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(plan), len(pairs))]
    for key, (kind, value) in pairs.items():
        header.append(_text(key) + struct.pack("<I", kind) + _packed(kind, value))
    offset, sizes = 0, []
    for key, spelled, kind in plan:
        shape = _written_shape(key, tensors[key])
        header.append(_text(spelled) + struct.pack("<I", len(shape)))
        header.append(struct.pack(f"<{len(shape)}Q", *shape[::-1]))
        header.append(struct.pack("<IQ", kind, offset))
        sizes.append(_stored_size(shape, kind))
        offset += -(-sizes[-1] // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as stream:
        stream.write(b"".join(header))
        stream.write(bytes(-stream.tell() % ALIGNMENT))
        for (key, _, kind), size in zip(plan, sizes, strict=True):
            for block in _encoded(key, tensors[key], kind):
                stream.write(block)
            stream.write(bytes(-size % ALIGNMENT))
            progress(size)


def check(config: GPT2Config, tensors: Iterable[str]) -> None:
    """Raise WeightsError for a model, or for tensors, that llama.cpp's GPT-2 does not have."""
    expressible = {
        "activation_function": config.activation_function
        in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        "add_cross_attention": not config.add_cross_attention,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": not config.scale_attn_by_inverse_layer_idx,
    }
    check_fields("llama.cpp has no GPT-2", config, expressible)
    if strange := [name for name in tensors if _module(name) not in MODULES]:
        raise WeightsError(f"llama.cpp's GPT-2 does not have {', '.join(strange)}.")


def _written_shape(name: str, tensor: LazyTensor) -> Shape:
    return tensor.shape[::-1] if is_projection(name) else tensor.shape


def stored_type(name: str, tensor: LazyTensor, type: str) -> str:
    """Return the type of `TYPES` for a tensor, in a file whose matrices have `type`."""
    if len(tensor.shape) < 2 or name == "wpe.weight":
        return "f32"
    if type == "q8_0" and _written_shape(name, tensor)[-1] % BLOCK:
        return "f16"
    return type


def _stored_size(shape: Shape, kind: int) -> int:
    count = math.prod(shape)
    if kind == Q8_0:
        return count // BLOCK * BLOCK_DTYPE.itemsize
    return count * DTYPES[kind].itemsize


def _encoded(name: str, tensor: LazyTensor, kind: int) -> Iterator[bytes]:
    wholes = [tensor.read().T] if is_projection(name) else tensor.blocks()
    for block in (piece for whole in wholes for piece in _pieces(whole)):
        if kind == Q8_0:
            yield _quantised(block).tobytes()
        else:
            yield np.ascontiguousarray(block.astype(DTYPES[kind], copy=False)).tobytes()


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some rows at a time, so that converting does not copy a whole tensor."""
    step = max(1, BLOCK_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _quantised(array: np.ndarray) -> np.ndarray:
    """Round to Q8_0 as ggml does: the scale is the largest magnitude over 127."""
    blocks = np.ascontiguousarray(array, np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    stored = np.empty(len(blocks), BLOCK_DTYPE)
    stored["scale"] = scale[:, 0]
    # Halves are rounded away from zero, as with C's roundf; numpy's rint differs.
    stored["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return stored


def _pairs(config: GPT2Config, type: str, name: str) -> dict[str, tuple[int, Any]]:
    """Return key -> (type, value) of the header, without the tokenizer."""
    own = {
        "context_length": (UINT32, config.n_positions),
        "embedding_length": (UINT32, config.n_embd),
        "block_count": (UINT32, config.n_layer),
        "feed_forward_length": (UINT32, config.n_inner or 4 * config.n_embd),
        "attention.head_count": (UINT32, config.n_head),
        "attention.layer_norm_epsilon": (FLOAT32, config.layer_norm_epsilon),
    }
    return {
        "general.architecture": (STRING, ARCHITECTURE),
        "general.name": (STRING, name),
        "general.file_type": (UINT32, TYPES[type][1]),
        "general.quantization_version": (UINT32, 2),
        **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()},
    }


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _packed(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        item, items = value
        return struct.pack("<IQ", item, len(items)) + b"".join(_packed(item, v) for v in items)
    return struct.pack(NUMBERS[kind], value)
