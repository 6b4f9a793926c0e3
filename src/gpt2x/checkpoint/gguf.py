"""GGUF, llama.cpp's format, for models of the architecture ``gpt2``.

A header of typed key-value pairs, a table of tensors, then their data, aligned. Dimensions are
listed from the fastest to the slowest; projections are (out, in). Types read: F32, F16, BF16 and
Q8_0 (blocks of 32: a float16 scale and 32 signed bytes).

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Read and written here so
that tensors pass one at a time and every length is checked before it is believed.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.checkpoint.base import BFLOAT16, CanonicalNames, Checkpoint, LazyTensor
from gpt2x.checkpoint.binary import BinaryFile, check_shape
from gpt2x.checkpoint.names import is_projection
from gpt2x.errors import CheckpointError
from gpt2x.hub import ModelFiles
from gpt2x.weights import Shape

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
ARCHITECTURE = "gpt2"

BLOCK = 32  # elements of a Q8_0 block
BLOCK_DTYPE = np.dtype([("scale", "<f2"), ("values", "i1", (BLOCK,))])

# name -> (type of the tensors, "general.file_type")
TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (0, 0),
    "f16": (1, 1),
    "q8_0": (8, 7),
    "bf16": (30, 32),
}
F32, Q8_0 = 0, 8
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: BFLOAT16}

NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

MODULES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}
_CANONICAL = {theirs: ours for ours, theirs in MODULES.items()}

NORMAL_TOKEN, CONTROL_TOKEN, UNUSED_TOKEN = 1, 3, 5


def _read_name(name: str) -> str | None:
    match = re.fullmatch(r"(?:blk\.(\d{1,9})\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _CANONICAL:
        return None
    prefix = "" if match[1] is None else f"h.{int(match[1])}."
    return f"{prefix}{_CANONICAL[match[2]]}.{match[3]}"


class _Cursor:
    """Reads a header's values one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
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
        return self.take(self.number("<Q")).decode("utf-8", "surrogateescape")

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
            return list(struct.unpack(f"<{count}{NUMBERS[item][1]}", self.take(count * size)))
        return [self.text() for _ in range(count)]  # each takes 8 bytes of the file at least


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a GGUF file; raises CheckpointError if it is damaged or of another architecture."""
    file = BinaryFile(path)
    try:
        pairs, table, start = _read_header(file)
        _check_kind(path, pairs)
        names = CanonicalNames(path)
        for source, shape, kind, offset in table:
            name = _read_name(source)
            tensor = _tensor(file, source, shape, kind, start + offset)
            transposed = name is not None and is_projection(name) and len(shape) == 2
            names.add(name or source, source, tensor.transposed() if transposed else tensor)
        config = _config(path, pairs, names)
    except BaseException:
        file.close()
        raise
    return Checkpoint(
        "gguf",
        path,
        names.tensors,
        config=config,
        ignored=names.ignored,
        source_names=names.source_names,
        metadata={k: v for k, v in pairs.items() if not isinstance(v, list)},
        tokenizer_files=_tokenizer_files(pairs),
        close=file.close,
    )


_Table = list[tuple[str, Shape, int, int]]  # name, shape, type, offset


def _read_header(file: BinaryFile) -> tuple[dict[str, Any], _Table, int]:
    """Return the pairs, the table of tensors, and where the data start."""
    file.read(0, 24)  # a shorter file has no header
    try:
        with (
            file.path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            cursor = _Cursor(data)
            if cursor.take(4) != MAGIC:
                raise CheckpointError("it does not start with GGUF")
            if (version := cursor.number("<I")) not in (2, VERSION):
                raise CheckpointError(f"it is of version {version}; 2 and 3 are read")
            tensor_count, pair_count = cursor.number("<Q"), cursor.number("<Q")
            pairs: dict[str, Any] = {}
            for _ in range(pair_count):
                key = cursor.text()
                pairs[key] = cursor.value(cursor.number("<I"))
            table: _Table = []
            for _ in range(tensor_count):
                name, rank = cursor.text(), cursor.number("<I")
                sizes = [cursor.number("<Q") for _ in range(min(rank, 8))]
                shape = check_shape(sizes[::-1], f"tensor {name!r}")
                table.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
            end = cursor.at
        alignment = pairs.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise CheckpointError(f"its alignment is {alignment!r:.40}")
        return pairs, table, -(-end // alignment) * alignment
    except (CheckpointError, struct.error, ValueError) as error:
        raise CheckpointError(f"{str(file.path)!r} is not a sound GGUF file: {error}.") from error


def _check_kind(path: Path, pairs: Mapping[str, Any]) -> None:
    architecture = pairs.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{str(path)!r} holds a model of the architecture {architecture!r:.40}, not gpt2."
        )
    if pairs.get("split.count", 1) not in (0, 1):
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


def _config(path: Path, pairs: Mapping[str, Any], names: CanonicalNames) -> dict[str, Any]:
    fields = {
        "n_layer": "block_count",
        "n_positions": "context_length",
        "n_embd": "embedding_length",
        "n_inner": "feed_forward_length",
        "n_head": "attention.head_count",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    }
    config = {ours: pairs.get(f"{ARCHITECTURE}.{theirs}") for ours, theirs in fields.items()}
    if lacking := [fields[name] for name, value in config.items() if value is None]:
        raise CheckpointError(f"{str(path)!r} lacks {', '.join(lacking)} in its header.")
    if "wte.weight" in names.tensors and len(names.tensors["wte.weight"].shape) == 2:
        config["vocab_size"] = names.tensors["wte.weight"].shape[0]
    for ours in ("bos_token_id", "eos_token_id"):
        config[ours] = pairs.get(f"tokenizer.ggml.{ours}")
    epsilon = config["layer_norm_epsilon"]
    config["layer_norm_epsilon"] = float(f"{epsilon:.7g}")  # stored as float32: 1e-5 comes back
    if "lm_head.weight" in names.tensors:
        from gpt2x.checkpoint.infer import same_values

        output, embedding = names.tensors["lm_head.weight"], names.tensors["wte.weight"]
        config["tie_word_embeddings"] = same_values(output, embedding)
    return config


def _tokenizer_files(pairs: Mapping[str, Any]) -> dict[str, bytes]:
    tokens, merges = pairs.get("tokenizer.ggml.tokens"), pairs.get("tokenizer.ggml.merges")
    if pairs.get("tokenizer.ggml.model") != "gpt2" or not tokens or not merges:
        return {}
    kinds = pairs.get("tokenizer.ggml.token_type") or [NORMAL_TOKEN] * len(tokens)
    vocabulary = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind != UNUSED_TOKEN
    }
    text = "\n".join(["#version: 0.2", *merges]) + "\n"
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode("utf-8", "replace"),
        "merges.txt": text.encode("utf-8", "replace"),
    }
