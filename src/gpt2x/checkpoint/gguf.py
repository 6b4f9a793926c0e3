"""GGUF, llama.cpp's format, for models of the architecture ``gpt2``.

A header of typed key-value pairs, a table of tensors, then their data, aligned. Dimensions are
listed from the fastest to the slowest; projections are (out, in). Types read: F32, F16, BF16 and
Q8_0 (blocks of 32: a float16 scale and 32 signed bytes). As llama.cpp's converter does, norms,
biases and position embeddings are always written in F32.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Read and written here so
that tensors pass one at a time and every length is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.checkpoint.base import BFLOAT16, CanonicalNames, Checkpoint, LazyTensor
from gpt2x.checkpoint.binary import BinaryFile, check_shape
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError, check_choice
from gpt2x.hub import ModelFiles
from gpt2x.weights import KIND_OF_MODULE, Kind, Shape

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
ARCHITECTURE = "gpt2"

_BLOCK = 32  # elements of a Q8_0 block
_BLOCK_DTYPE = np.dtype([("scale", "<f2"), ("values", "i1", (_BLOCK,))])

# name -> (type of the tensors, "general.file_type")
TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (0, 0),
    "f16": (1, 1),
    "q8_0": (8, 7),
    "bf16": (30, 32),
}
_F32, _Q8_0 = 0, 8
_DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: BFLOAT16}

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

_MODULES = {
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
_CANONICAL = {theirs: ours for ours, theirs in _MODULES.items()}

_NORMAL_TOKEN, _CONTROL_TOKEN, _UNUSED_TOKEN = 1, 3, 5


def _spell(name: str) -> str:
    """``h.0.attn.c_attn.weight`` -> ``blk.0.attn_qkv.weight``."""
    module, _, leaf = name.rpartition(".")
    layer = re.match(r"h\.(\d+)\.", module)
    prefix = f"blk.{layer[1]}." if layer else ""
    module = module[layer.end() :] if layer else module
    if module not in _MODULES:
        raise WeightsError(f"GGUF has no place for {name!r} in a model of architecture gpt2.")
    return f"{prefix}{_MODULES[module]}.{leaf}"


def _read_name(name: str) -> str | None:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _CANONICAL:
        return None
    prefix = "" if match[1] is None else f"h.{int(match[1])}."
    return f"{prefix}{_CANONICAL[match[2]]}.{match[3]}"


def _is_projection(name: str) -> bool:
    module = name.rpartition(".")[0].rpartition(".")[2]
    return KIND_OF_MODULE.get(module) is Kind.CONV1D and name.endswith(".weight")


# Reading


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
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise CheckpointError(f"it holds a value of the unknown type {kind}")
        item, count = self.number("<I"), self.number("<Q")
        if item == _ARRAY or item not in (*_NUMBERS, _STRING):
            raise CheckpointError(f"it holds an array of the impossible type {item}")
        if item in _NUMBERS:
            size = struct.calcsize(_NUMBERS[item])
            return list(struct.unpack(f"<{count}{_NUMBERS[item][1]}", self.take(count * size)))
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
            transposed = name is not None and _is_projection(name) and len(shape) == 2
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
    if kind in _DTYPES:
        return file.tensor(offset, shape, _DTYPES[kind], f"tensor {name!r}")
    if kind != _Q8_0:
        raise CheckpointError(
            f"{str(file.path)!r}: {name!r} is quantised as type {kind}; read are "
            f"{', '.join(TYPES)}. Convert it with llama-quantize first."
        )
    if not shape or shape[-1] % _BLOCK:
        raise CheckpointError(f"{str(file.path)!r}: {name!r} has no whole blocks of {_BLOCK}.")
    blocks = file.tensor(offset, (*shape[:-1], shape[-1] // _BLOCK), _BLOCK_DTYPE, name)

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
    kinds = pairs.get("tokenizer.ggml.token_type") or [_NORMAL_TOKEN] * len(tokens)
    vocabulary = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind != _UNUSED_TOKEN
    }
    text = "\n".join(["#version: 0.2", *merges]) + "\n"
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode("utf-8", "replace"),
        "merges.txt": text.encode("utf-8", "replace"),
    }


# Writing


def write(
    path: Path,
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor],
    *,
    type: str = "f16",
    vocabulary: Mapping[str, int] | None = None,
    merges: list[str] | None = None,
    name: str = "gpt2",
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write a GGUF file that llama.cpp runs.

    Args:
        path: the file.
        config: the model's.
        tensors: canonical name -> tensor, of the body and an untied output layer.
        type: one of `TYPES`, for the matrices. Q8_0 falls back to F16 where a row is no multiple
            of 32.
        vocabulary: token -> id, as in vocab.json; without it llama.cpp cannot read text.
        merges: the lines of merges.txt, "a b" each.
        name: the model's name, for people.
        progress: called with each tensor's bytes once they are written.

    Raises:
        InvalidInputError: for an unknown type.
        WeightsError: for a model that llama.cpp's gpt2 cannot express.
    """
    check_choice("type", type, TYPES)
    _check_expressible(config)
    if config.tie_word_embeddings:
        tensors = {key: value for key, value in tensors.items() if key != "lm_head.weight"}
    plan = [(key, _spell(key), _stored_type(key, tensor, type)) for key, tensor in tensors.items()]
    pairs = _pairs(config, type, name, vocabulary, merges)
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
            progress(tensors[key].nbytes)


def _check_expressible(config: GPT2Config) -> None:
    obstacles = {
        "activation_function": config.activation_function
        not in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        "add_cross_attention": config.add_cross_attention,
        "scale_attn_weights": not config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }
    if found := [f"{name}={getattr(config, name)}" for name, bad in obstacles.items() if bad]:
        raise WeightsError(f"llama.cpp has no GPT-2 with {', '.join(found)}.")


def _written_shape(name: str, tensor: LazyTensor) -> Shape:
    return tensor.shape[::-1] if _is_projection(name) else tensor.shape


def _stored_type(name: str, tensor: LazyTensor, type: str) -> int:
    if len(tensor.shape) < 2 or name == "wpe.weight":
        return _F32
    if type == "q8_0" and _written_shape(name, tensor)[-1] % _BLOCK:
        return TYPES["f16"][0]
    return TYPES[type][0]


def _stored_size(shape: Shape, kind: int) -> int:
    count = math.prod(shape)
    if kind == _Q8_0:
        return count // _BLOCK * _BLOCK_DTYPE.itemsize
    return count * _DTYPES[kind].itemsize


def _encoded(name: str, tensor: LazyTensor, kind: int) -> Iterator[bytes]:
    blocks = [tensor.read().T] if _is_projection(name) else tensor.blocks()
    for block in blocks:
        if kind == _Q8_0:
            yield _quantised(block).tobytes()
        else:
            yield np.ascontiguousarray(block.astype(_DTYPES[kind], copy=False)).tobytes()


def _quantised(array: np.ndarray) -> np.ndarray:
    """Round to Q8_0 as ggml does: the scale is the largest magnitude over 127."""
    blocks = np.ascontiguousarray(array, np.float32).reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    stored = np.empty(len(blocks), _BLOCK_DTYPE)
    stored["scale"] = scale[:, 0]
    # Halves are rounded away from zero, as C's roundf does and numpy's rint does not.
    stored["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return stored


def _pairs(
    config: GPT2Config,
    type: str,
    name: str,
    vocabulary: Mapping[str, int] | None,
    merges: list[str] | None,
) -> dict[str, tuple[int, Any]]:
    """Key -> (type, value) of the header."""
    own = {
        "context_length": (_UINT32, config.n_positions),
        "embedding_length": (_UINT32, config.n_embd),
        "block_count": (_UINT32, config.n_layer),
        "feed_forward_length": (_UINT32, config.n_inner or 4 * config.n_embd),
        "attention.head_count": (_UINT32, config.n_head),
        "attention.layer_norm_epsilon": (_FLOAT32, config.layer_norm_epsilon),
    }
    pairs: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, ARCHITECTURE),
        "general.name": (_STRING, name),
        "general.file_type": (_UINT32, TYPES[type][1]),
        "general.quantization_version": (_UINT32, 2),
        **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()},
    }
    if vocabulary is None or merges is None:
        return pairs
    return pairs | _tokenizer_pairs(config, vocabulary, merges)


def _tokenizer_pairs(
    config: GPT2Config, vocabulary: Mapping[str, int], merges: list[str]
) -> dict[str, tuple[int, Any]]:
    by_id = {number: token for token, number in vocabulary.items()}
    if by_id and max(by_id) >= config.vocab_size:
        raise InvalidInputError(
            f"The tokenizer has the id {max(by_id)}, but the model only {config.vocab_size} rows."
        )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    control = {config.bos_token_id, *ends}
    kinds = [
        _UNUSED_TOKEN if i not in by_id else _CONTROL_TOKEN if i in control else _NORMAL_TOKEN
        for i in range(config.vocab_size)
    ]
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(config.vocab_size)]
    pairs: dict[str, tuple[int, Any]] = {
        "tokenizer.ggml.model": (_STRING, "gpt2"),
        "tokenizer.ggml.pre": (_STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, tokens)),
        "tokenizer.ggml.token_type": (_ARRAY, (_INT32, kinds)),
        "tokenizer.ggml.merges": (_ARRAY, (_STRING, merges)),
        "tokenizer.ggml.add_bos_token": (_BOOL, False),
    }
    if config.bos_token_id is not None:
        pairs["tokenizer.ggml.bos_token_id"] = (_UINT32, config.bos_token_id)
    if ends[0] is not None:
        pairs["tokenizer.ggml.eos_token_id"] = (_UINT32, ends[0])
    return pairs


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _packed(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        item, items = value
        return struct.pack("<IQ", item, len(items)) + b"".join(_packed(item, v) for v in items)
    return struct.pack(_NUMBERS[kind], value)
