"""Megatron-LM's GPT-2: ``model_optim_rng.pt`` per tensor-parallel rank, in ``mp_rank_00`` and on.

Projections are (out, in). The fused query-key-value projection orders its rows by
``checkpoint_version``: [3, heads, width] in version 0, [heads, width, 3] in version 1, [heads, 3,
width] from 2 on, each rank holding its share of the heads. Column-parallel weights (qkv, the MLP's
first, the embedding) join along the rows, row-parallel ones along the columns; norms and the biases
of row-parallel projections are the same on every rank. The vocabulary is padded to a multiple of
128 (``make_vocab_size_divisible_by``) times the ranks; its size before that is the tokenizer's, if
its files are there, or ``vocab_size`` of the arguments, or GPT-2's. An untied output layer is
called ``output_layer``.

Older releases nest dictionaries under ``language_model``; Megatron Core has one flat dictionary of
other names, where a norm may belong to the projection after it.

Source: Megatron-LM's ``megatron/checkpointing.py``, ``megatron/model`` and
``megatron/core/models/gpt``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, Format
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch.pickle_machine import Inert
from gpt2x.formats.torch.serialization import load, saved_in
from gpt2x.storage.budget import VALUE, Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.infer import infer_config
from gpt2x.weights.lazy import LazyTensor, concatenated

_FILES = ("model_optim_rng.pt", "model_rng.pt")
_TRACKER = "latest_checkpointed_iteration.txt"

_GPT2_VOCABULARY = 50257
_VOCABULARY_MULTIPLE = 128

# Megatron's module -> ours, and how to join ranks: rows (0), columns (1), or all equal (None).
_MODULES: Mapping[str, tuple[str, int | None]] = {
    "input_layernorm": ("ln_1", None),
    "attention.query_key_value": ("attn.c_attn", 0),
    "self_attention.query_key_value": ("attn.c_attn", 0),
    "attention.dense": ("attn.c_proj", 1),
    "self_attention.dense": ("attn.c_proj", 1),
    "post_attention_layernorm": ("ln_2", None),
    "mlp.dense_h_to_4h": ("mlp.c_fc", 0),
    "mlp.dense_4h_to_h": ("mlp.c_proj", 1),
    # Megatron Core
    "self_attention.linear_qkv.layer_norm": ("ln_1", None),
    "self_attention.linear_qkv": ("attn.c_attn", 0),
    "self_attention.linear_proj": ("attn.c_proj", 1),
    "pre_mlp_layernorm": ("ln_2", None),
    "mlp.linear_fc1.layer_norm": ("ln_2", None),
    "mlp.linear_fc1": ("mlp.c_fc", 0),
    "mlp.linear_fc2": ("mlp.c_proj", 1),
}
_LAYER = re.compile(r"layers\.(\d{1,9})\.(.+)[._](weight|bias)")
_CORE_EMBEDDING = "embedding.word_embeddings.weight"
_BUFFERS = ("attention.bias", "attention.masked_bias", "_extra_state", "inv_freq")


def _find_ranks(folder: Path) -> Path | None:
    """Return the first rank's file in the folder of a checkpoint, an iteration or one rank."""
    tracker = folder / _TRACKER
    if tracker.is_file():
        with tracker.open(errors="replace") as text:
            latest = text.read(64).strip()
        name = f"iter_{int(latest):07d}" if latest.isdecimal() else "release"
        folder = folder / name
    for inside in (folder / "mp_rank_00", folder / "mp_rank_00_000", folder):
        for name in _FILES:
            if (inside / name).is_file():
                return inside / name
    return None


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a checkpoint by its first rank's file; the other ranks' are found beside it."""
    path = checkpoint.path
    checkpoint.files = tuple(_rank_files(path))
    budget = Budget(str(path))
    opened = [checkpoint.hold(BinaryFile(rank, budget)) for rank in checkpoint.files]
    saved = [load(file) for file in opened]
    models = [model for rank in saved if (model := _language_model(rank)) is not None]
    if len(models) != len(saved):
        raise CheckpointError(f"{str(path)!r} holds no language_model of Megatron-LM.")
    arguments = _arguments(saved[0])
    _check_ranks(path, arguments, len(saved))
    version = saved[0].get("checkpoint_version", 0)
    if not isinstance(version, int | float):
        raise CheckpointError(f"{str(path)!r} has a checkpoint_version that is not a number.")
    ranks = [_flat(model, budget) for model in models]
    heads = _heads(arguments, ranks[0], path)
    _add_tensors(checkpoint, ranks, heads, version)
    _trim_vocabulary(checkpoint, arguments, len(ranks), files)
    checkpoint.config = _config(arguments, checkpoint, heads)


def _check_ranks(path: Path, arguments: Mapping[str, Any], found: int) -> None:
    expected = _size(arguments.get("tensor_model_parallel_size")) or found
    if expected != found:
        raise CheckpointError(
            f"{str(path)!r} is one of {expected} tensor-parallel ranks, of which {found} are here; "
            "put their mp_rank_ folders side by side."
        )
    if arguments.get("pipeline_model_parallel_size", 1) != 1:
        raise CheckpointError(
            f"{str(path)!r} is split by pipeline stages, which is not supported; merge them with "
            "Megatron-LM's tools first."
        )


def _rank_files(path: Path) -> list[Path]:
    match = re.fullmatch(r"mp_rank_(\d+)((?:_\d+)?)", path.parent.name)
    if match is None:
        return [path]
    paths = sorted(path.parent.parent.glob(f"mp_rank_*/{path.name}"))
    return [p for p in paths if re.fullmatch(rf"mp_rank_\d+{match[2]}", p.parent.name)]


def _language_model(saved: Any) -> dict[Any, Any] | None:
    model = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(model, dict):
        return None
    language = model if _CORE_EMBEDDING in model else model.get("language_model")
    return language if isinstance(language, dict) else None


def _arguments(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training arguments, an argparse.Namespace in the file."""
    arguments = saved.get("args")
    state = arguments.state if isinstance(arguments, Inert) else arguments
    return state if isinstance(state, dict) else {}


def _size(value: Any) -> int | None:
    """Return `value` if it can be the size of a model, else None."""
    return value if type(value) is int and 0 < value < 2**31 else None


def _flat(tree: Any, budget: Budget) -> dict[str, LazyTensor]:
    """Return the tensors of nested dictionaries by dotted path.

    Raises CheckpointError if a dictionary occurs twice: a pickle of a few bytes can contain one
    dictionary more often than anyone can visit.
    """
    flat: dict[str, LazyTensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        prefix, branch = waiting.pop()
        if id(branch) in seen:
            raise CheckpointError("a checkpoint of Megatron-LM holds one dictionary twice")
        seen.add(id(branch))
        for name, value in branch.items():
            if not isinstance(name, str):
                continue
            path = f"{prefix}{name}"
            budget.charge(VALUE + len(path) ** 2 // 4, "names")  # what reading it may take
            if isinstance(value, LazyTensor):
                flat[path] = value
            elif isinstance(value, dict):
                waiting.append((f"{path}.", value))
    return flat


def _heads(arguments: Mapping[str, Any], rank: Mapping[str, LazyTensor], path: Path) -> int:
    if heads := _size(arguments.get("num_attention_heads")):
        return heads
    width = next(t.shape[-1] for name, t in rank.items() if name.endswith("embeddings.weight"))
    if width % 64:
        raise CheckpointError(f"{str(path)!r} does not say how many attention heads it has.")
    return width // 64


def _add_tensors(
    checkpoint: Checkpoint, ranks: list[dict[str, LazyTensor]], heads: int, version: float
) -> None:
    for source in ranks[0]:
        if source.endswith(_BUFFERS):
            checkpoint.ignored[source] = "causal-mask buffer or other state"
            continue
        parts = [rank.get(source) for rank in ranks]
        present = [part for part in parts if part is not None]
        if len(present) != len(ranks):
            raise CheckpointError(f"{str(checkpoint.path)!r}: some ranks lack {source!r}.")
        if source.endswith("word_embeddings.weight"):
            checkpoint.add("wte.weight", source, _joined(present, 0))
        elif source == "output_layer.weight":
            checkpoint.add("lm_head.weight", source, _joined(present, 0))
        elif source.endswith("position_embeddings.weight"):
            checkpoint.add("wpe.weight", source, present[0])
        elif match := re.search(r"final_layernorm\.(weight|bias)$", source):
            checkpoint.add(f"ln_f.{match[1]}", source, present[0])
        elif (match := _LAYER.search(source)) and match[2] in _MODULES:
            name, tensor = _layer_tensor(match, present, heads, version)
            checkpoint.add(name, source, tensor)
        else:
            checkpoint.ignored[source] = "no weight of a GPT-2"


def _joined(parts: list[LazyTensor], axis: int) -> LazyTensor:
    return parts[0] if len(parts) == 1 else concatenated(parts, axis)


def _layer_tensor(
    match: re.Match[str], parts: list[LazyTensor], heads: int, version: float
) -> tuple[str, LazyTensor]:
    layer, source, leaf = match.groups()
    module, axis = _MODULES[source]
    name = f"h.{int(layer)}.{module}.{leaf}"
    if axis is None or (axis == 1 and leaf == "bias"):
        return name, parts[0]
    if module == "attn.c_attn":
        tensor = _query_key_value(parts, heads, version)
    else:
        tensor = _joined(parts, axis)
    return name, tensor.transposed() if leaf == "weight" else tensor


def _query_key_value(parts: list[LazyTensor], heads: int, version: float) -> LazyTensor:
    """Order the rows of all ranks as [3, heads, width of a head]."""
    ranks = len(parts)
    rows, *rest = parts[0].shape
    width = rows * ranks // (3 * heads)
    if heads % ranks or rows * ranks != 3 * heads * width:
        raise CheckpointError(
            f"a query-key-value projection of {rows} rows on each of {ranks} ranks does not fit "
            f"{heads} heads"
        )
    local = heads // ranks

    def ordered(array: np.ndarray) -> np.ndarray:
        if version >= 2:
            split = array.reshape(local, 3, width, *rest).swapaxes(0, 1)
        elif version >= 1:
            split = np.moveaxis(array.reshape(local, width, 3, *rest), 2, 0)
        else:
            split = array.reshape(3, local, width, *rest)
        return split  # [3, local heads, width, ...]

    read: list[Callable[[], np.ndarray]] = [part.read for part in parts]
    return LazyTensor(
        (3 * heads * width, *rest),
        parts[0].dtype,
        lambda: np.concatenate([ordered(part()) for part in read], axis=1).reshape(
            3 * heads * width, *rest
        ),
    )


def _trim_vocabulary(
    checkpoint: Checkpoint, arguments: Mapping[str, Any], ranks: int, files: ModelFiles
) -> None:
    """Drop the rows that Megatron-LM adds so that the vocabulary divides among the ranks."""
    if "wte.weight" not in checkpoint:
        return
    padded = checkpoint["wte.weight"].shape[0]
    multiple = _size(arguments.get("make_vocab_size_divisible_by")) or _VOCABULARY_MULTIPLE
    multiple *= ranks
    sizes = (_tokenizer_size(files), _size(arguments.get("vocab_size")), _GPT2_VOCABULARY)
    vocabulary = next((n for n in sizes if n and -(-n // multiple) * multiple == padded), padded)
    if vocabulary == padded:
        return
    for name in {"wte.weight", "lm_head.weight"} & checkpoint.keys():
        shape = (vocabulary, *checkpoint[name].shape[1:])
        checkpoint.replace({name: checkpoint[name].mapped(shape, lambda rows: rows[:vocabulary])})
    checkpoint.ignored[f"rows {vocabulary} to {padded - 1}"] = "padding of the vocabulary"


def _tokenizer_size(files: ModelFiles) -> int | None:
    """Return the largest id of the vocab.json beside a checkpoint, plus one; None without it."""
    path = files.find("vocab.json")
    ids = [] if path is None else list(read_object(path).values())
    return max(ids) + 1 if ids and all(type(number) is int for number in ids) else None


def _config(
    arguments: Mapping[str, Any], tensors: Mapping[str, LazyTensor], heads: int
) -> dict[str, Any]:
    config = infer_config(tensors, heads)
    if isinstance(arguments.get("layernorm_epsilon"), float):
        config["layer_norm_epsilon"] = arguments["layernorm_epsilon"]
    # Both options of Megatron-LM give the tanh approximation; without them it is the exact GELU.
    if arguments and not (arguments.get("bias_gelu_fusion") or arguments.get("openai_gelu")):
        config["activation_function"] = "gelu"
    return config


FORMAT = Format(
    name="megatron",
    rank=80,
    patterns=_FILES,
    find=_find_ranks,
    recognises=lambda file: _language_model(saved_in(file)) is not None,
    read=_read,
)
