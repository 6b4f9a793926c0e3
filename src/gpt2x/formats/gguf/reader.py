"""Reading GGUF, llama.cpp's format, for models of the architecture ``gpt2``.

`gpt2x.formats.gguf.layout` describes it. Types read: F32, F16, BF16 and Q8_0 (blocks of 32: a
float16 scale and 32 signed bytes). The gguf package is not used, so that tensors are read one at a
time and every length is checked before it is used.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, reading
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.formats.gguf import tokenizer
from gpt2x.formats.gguf.layout import (
    ALIGNMENT,
    ARCHITECTURE,
    ARRAY,
    BLOCK,
    BLOCK_DTYPE,
    DTYPES,
    MAGIC,
    MODULES,
    NUMBERS,
    Q8_0,
    STRING,
    TYPES,
    VERSION,
)
from gpt2x.storage.budget import TENSOR, VALUE, Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.infer import same_values
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import out_in, to_canonical
from gpt2x.weights.table import Shape

_CANONICAL = {theirs: ours for ours, theirs in MODULES.items()}


def _read_name(name: str) -> str | None:
    match = re.fullmatch(r"(?:blk\.(\d{1,9})\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _CANONICAL:
        return None
    prefix = "" if match[1] is None else f"h.{int(match[1])}."
    return f"{prefix}{_CANONICAL[match[2]]}.{match[3]}"


class _Cursor:
    """Reads the values of a header one after another."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self._data = data
        self._budget = budget
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self._data):
            raise CheckpointError("it ends in the middle of its header")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def number(self, format: str) -> Any:
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def text(self) -> str:
        size = self.number("<Q")
        self._budget.charge(VALUE + 4 * size, "texts")  # bytes of the widest characters
        return self.take(size).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise CheckpointError(f"it holds a value of the unknown type {kind}")
        item, count = self.number("<I"), self.number("<Q")
        if item == ARRAY or item not in (*NUMBERS, STRING):
            raise CheckpointError(f"it holds an array of the impossible type {item}")
        if item in NUMBERS:
            size = struct.calcsize(NUMBERS[item])
            self._budget.charge(count * size, "numbers")
            return np.frombuffer(self.take(count * size), NUMBERS[item])
        return [self.text() for _ in range(count)]


def read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a GGUF file; raises CheckpointError if it is damaged or of another architecture."""
    path, file = checkpoint.path, checkpoint.hold(BinaryFile(checkpoint.path))
    with reading(path, "GGUF file", (struct.error, ValueError)):
        pairs, table, start = _read_header(file)
    _check_kind(path, pairs)
    for source, shape, kind, offset in table:
        name = _read_name(source) or source
        if kind == Q8_0:
            checkpoint.quantised[name] = "q8_0"
        tensor = _tensor(file, source, shape, kind, start + offset)
        checkpoint.add(name, source, to_canonical(tensor, out_in(name)))
    checkpoint.config = _config(path, pairs, checkpoint)
    checkpoint.metadata = {k: v for k, v in pairs.items() if not isinstance(v, list | np.ndarray)}
    with reading(path, "GGUF file"):
        checkpoint.tokenizer_files = tokenizer.to_files(pairs, file.budget)


_Table = list[tuple[str, Shape, int, int]]  # name, shape, type, offset


def _read_header(file: BinaryFile) -> tuple[dict[str, Any], _Table, int]:
    """Return the pairs, the table of tensors, and where the data start."""
    file.read(0, 24)  # a shorter file cannot have a header
    with (
        file.path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        cursor = _Cursor(data, file.budget)
        if cursor.take(4) != MAGIC:
            raise CheckpointError("it does not start with GGUF")
        if (version := cursor.number("<I")) not in (2, VERSION):
            raise CheckpointError(f"it is of version {version}; 2 and 3 are read")
        tensor_count, pair_count = cursor.number("<Q"), cursor.number("<Q")
        pairs: dict[str, Any] = {}
        for _ in range(pair_count):
            file.budget.charge(VALUE, "pairs")
            key = cursor.text()
            pairs[key] = cursor.value(cursor.number("<I"))
        table: _Table = []
        for _ in range(tensor_count):
            file.budget.charge(TENSOR, "tensors")
            name, rank = cursor.text(), cursor.number("<I")
            sizes = [cursor.number("<Q") for _ in range(min(rank, 8))]
            shape = check_shape(sizes[::-1], f"tensor {name!r}")
            table.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
        end = cursor.at
    alignment = pairs.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise CheckpointError(f"its alignment is {alignment!r:.40}")
    return pairs, table, -(-end // alignment) * alignment


def _check_kind(path: Path, pairs: Mapping[str, Any]) -> None:
    architecture = pairs.get("general.architecture")
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{str(path)!r} holds a model of the architecture {architecture!r:.40}, not gpt2."
        )
    parts = pairs.get("split.count", 1)
    if not isinstance(parts, int) or parts > 1:
        raise CheckpointError(
            f"{str(path)!r} is one of several parts; merge them with llama-gguf-split first."
        )


def _tensor(file: BinaryFile, name: str, shape: Shape, kind: int, offset: int) -> LazyTensor:
    if kind in DTYPES:
        return file.tensor(offset, shape, DTYPES[kind], f"tensor {name!r}")
    if kind != Q8_0:
        raise CheckpointError(
            f"{str(file.path)!r}: {name!r} is quantised as type {kind}; read are "
            f"{', '.join(TYPES)}. Convert it with llama-quantize first."
        )
    if not shape or shape[-1] % BLOCK:
        raise CheckpointError(f"{str(file.path)!r}: {name!r} has no whole blocks of {BLOCK}.")
    file.budget.charge(math.prod(shape) * np.dtype(np.float32).itemsize, "tensors")
    blocks = file.tensor(offset, (*shape[:-1], shape[-1] // BLOCK), BLOCK_DTYPE, name)

    def values(stored: np.ndarray) -> np.ndarray:
        scales = stored["scale"].astype(np.float32)[..., None]
        with np.errstate(invalid="ignore"):  # an infinite scale makes NaN, as it should
            return (stored["values"] * scales).reshape(*stored.shape[:-1], shape[-1])

    rows = blocks.rows
    assert rows is not None
    return LazyTensor(
        shape,
        np.dtype(np.float32),
        lambda: values(blocks.read()),
        lambda first, last: values(rows(first, last)),
    )


def _config(
    path: Path, pairs: Mapping[str, Any], tensors: Mapping[str, LazyTensor]
) -> dict[str, Any]:
    fields = {
        "n_layer": "block_count",
        "n_positions": "context_length",
        "n_embd": "embedding_length",
        "n_inner": "feed_forward_length",
        "n_head": "attention.head_count",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    }
    config = {ours: pairs.get(f"{ARCHITECTURE}.{theirs}") for ours, theirs in fields.items()}
    kinds = {name: float if name == "layer_norm_epsilon" else int for name in fields}
    if lacking := [
        fields[name] for name, value in config.items() if type(value) is not kinds[name]
    ]:
        raise CheckpointError(f"{str(path)!r} lacks {', '.join(lacking)} in its header.")
    output, embedding = (tensors.get(name) for name in ("lm_head.weight", "wte.weight"))
    if embedding is not None and len(embedding.shape) == 2:
        config["vocab_size"] = embedding.shape[0]
    if embedding is not None and output is not None:
        config["tie_word_embeddings"] = same_values(output, embedding)
    for ours, key in tokenizer.CONFIG_IDS.items():
        config[ours] = pairs.get(key)
    epsilon = config["layer_norm_epsilon"]
    config["layer_norm_epsilon"] = float(f"{epsilon:.7g}")  # stored as float32: 1e-5 comes back
    return config
