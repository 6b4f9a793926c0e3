"""The `FORMAT` of GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt2x.formats.base import Format, ModelToWrite
from gpt2x.formats.gguf import writer
from gpt2x.formats.gguf.layout import MAGIC
from gpt2x.formats.gguf.reader import read
from gpt2x.weights.lazy import LazyTensor

# dtype -> GGUF's type
_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
_DTYPES = {type: dtype for dtype, type in _TYPES.items()}


def _type(tensors: Mapping[str, LazyTensor], dtype: str | None) -> str:
    """Return the type of the matrices: the requested one, or the source's half precision."""
    if dtype is not None:
        return _TYPES[dtype]
    return "bf16" if tensors["wte.weight"].dtype.name == "bfloat16" else "f16"


def _stored(tensors: Mapping[str, LazyTensor], dtype: str | None) -> dict[str, str]:
    type = _type(tensors, dtype)
    return {
        name: _DTYPES[writer.stored_type(name, tensor, type)] for name, tensor in tensors.items()
    }


def _write(path: Path, model: ModelToWrite) -> None:
    writer.write(
        path,
        model.config,
        model.tensors,
        type=_type(model.tensors, model.dtype),
        tokenizer=model.tokenizer(),
        name=model.name,
        progress=model.progress,
    )


FORMAT = Format(
    name="gguf",
    rank=50,
    patterns=("*.gguf",),
    recognises=lambda file: file.start[:4] == MAGIC,
    read=read,
    write=_write,
    weights="model.gguf",
    suffixes=(".gguf",),
    dtypes=tuple(_TYPES),
    stored=_stored,
    check=writer.check,
)
