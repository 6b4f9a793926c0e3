"""KerasHub's GPT-2: a preset folder, or the ``.weights.h5`` or ``.keras`` of a GPT2Backbone or
GPT2CausalLM.

Keras 3 stores a variable under its layer's path, ``layers/transformer_decoder_1/.../vars/0``.
Queries, keys and values are separate projections [E, heads, head width]. Source: KerasHub 0.32,
``keras_hub/src/models/gpt2`` and ``keras_hub/src/layers/modeling/transformer_decoder.py``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError, listed
from gpt2x.formats import shards
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.keras.archive import open_archive
from gpt2x.formats.tensorflow import h5 as tf_h5
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import CanonicalNames, LazyTensor, concatenated

CONFIG_NAME = "config.json"
SHARDS_NAME = "model.weights.json"

_EMBEDDINGS = {
    "reversible_embedding": "wte.weight",
    "token_embedding": "wte.weight",
    "position_embedding": "wpe.weight",
}
_NORMS = {"_self_attention_layer_norm": "ln_1", "_feedforward_layer_norm": "ln_2"}
_DENSE = {
    "_feedforward_intermediate_dense": "mlp.c_fc",
    "_feedforward_output_dense": "mlp.c_proj",
    "_self_attention_layer/output_dense": "attn.c_proj",
}
_QUERY_KEY_VALUE = ("query_dense", "key_dense", "value_dense")
_LEAVES = {"0": "weight", "1": "bias"}
# Of the tokenizer in a whole model -> transformers' names.
_ASSETS = {
    "assets/preprocessor/tokenizer/vocabulary.json": "vocab.json",
    "assets/preprocessor/tokenizer/merges.txt": "merges.txt",
}
_PATH = re.compile(r"(?:.*/)?layers/([^/]+)/(?:(.+)/)?vars/([01])")
_DECODER = re.compile(r"transformer_decoder(?:_(\d{1,9}))?")


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a ``.weights.h5`` or ``.keras`` file, or the ``model.weights.json`` of a preset.

    The config is the one in the ``.keras`` file, or else the preset's config.json beside.
    """
    with ExitStack() as stack:
        config, tokenizer, stream = None, {}, None
        if zipfile.is_zipfile(path):
            archive = open_archive(path, tuple(_ASSETS))
            stream = archive.weights
            stack.callback(stream.close)
            config = _config(path, _backbone(archive.saved))
            tokenizer = {_ASSETS[name]: data for name, data in archive.assets.items()}
        paths = _shards(path, files) if path.name == SHARDS_NAME else [path]
        tensors: dict[str, LazyTensor] = {}
        budget = Budget(str(path))
        for shard in paths:
            raw = tf_h5.open_raw(shard, budget, stream=stream)
            stack.callback(raw.close)
            tensors |= raw.tensors
        names = _name_tensors(path, tensors)
        beside = files.find(CONFIG_NAME)
        if config is None and beside is not None:
            config = _config(beside, read_object(beside))
        if config is None:
            config = _sizes(names, tensors)
        return Checkpoint(
            "keras-hub",
            path,
            names.tensors,
            config=config,
            ignored=names.ignored,
            source_names=names.source_names,
            files=paths,
            tokenizer_files=tokenizer,
            close=stack.pop_all().close,
        )


def _shards(path: Path, files: ModelFiles) -> list[Path]:
    """The files that a preset's list of shards names; each layer may be spread over several."""
    weight_map = read_object(path).get("weight_map")
    values = weight_map.values() if isinstance(weight_map, dict) else []
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    for name in names:
        shards.check_shard_name(path, name)
    found = {name: files.find(name) for name in sorted(set(names))}
    missing = [name for name, shard in found.items() if shard is None]
    if not found:
        raise CheckpointError(f"{str(path)!r} lists no shards.")
    if missing:
        raise CheckpointError(f"{str(path)!r} lists shards that are missing: {listed(missing)}.")
    return [shard for shard in found.values() if shard is not None]


def is_preset_config(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is KerasHub's and not transformers'."""
    return config.get("class_name") == "GPT2Backbone" and isinstance(config.get("config"), dict)


def _backbone(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the backbone in that of a whole model, which may be a backbone itself."""
    inside = saved["config"].get("backbone")
    return inside if isinstance(inside, dict) else saved


def _config(path: Path, preset: Mapping[str, Any]) -> dict[str, Any] | None:
    if not is_preset_config(preset):
        return None
    backbone = preset["config"]
    try:
        config = {
            "vocab_size": backbone["vocabulary_size"],
            "n_layer": backbone["num_layers"],
            "n_head": backbone["num_heads"],
            "n_embd": backbone["hidden_dim"],
            "n_positions": backbone["max_sequence_length"],
            "n_inner": backbone["intermediate_dim"],
        }
    except KeyError as error:
        raise CheckpointError(f"{str(path)!r} lacks {error} of a GPT2Backbone.") from error
    end_of_text = 50256 if config["vocab_size"] > 50256 else None
    rate = backbone.get("dropout", 0.1)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), rate)
    return {**config, **dropout, "bos_token_id": end_of_text, "eos_token_id": end_of_text}


def _sizes(names: CanonicalNames, tensors: Mapping[str, LazyTensor]) -> dict[str, Any] | None:
    """Infer the config without a preset; here the number of heads is in the shapes."""
    from gpt2x.weights.infer import infer_config

    kernels = [t for name, t in tensors.items() if name.endswith("query_dense/vars/0")]
    heads = kernels[0].shape[1] if kernels and len(kernels[0].shape) == 3 else None
    return infer_config(names.tensors, heads)


def _name_tensors(path: Path, tensors: Mapping[str, LazyTensor]) -> CanonicalNames:
    names = CanonicalNames(path)
    fused: dict[tuple[str, str], dict[str, tuple[str, LazyTensor]]] = {}
    for source, tensor in tensors.items():
        match = _PATH.fullmatch(source)
        if match is None:
            names.ignore(source, "no weight of the model (optimizer or state)")
            continue
        layer, module, leaf = match[1], match[2] or "", _LEAVES[match[3]]
        decoder = _DECODER.fullmatch(layer)
        if layer in _EMBEDDINGS:
            names.add(_EMBEDDINGS[layer], source, tensor)
        elif layer == "layer_normalization":
            names.add(f"ln_f.{leaf}", source, tensor)
        elif decoder is None:
            names.add(source, source, tensor)  # reported as left over
        else:
            block = f"h.{int(decoder[1] or 0)}"
            projection = module.rpartition("/")[2]
            if projection in _QUERY_KEY_VALUE:
                parts = fused.setdefault((block, leaf), {})
                parts[projection] = source, _flat_heads(tensor, leaf, fuse_last=True)
            elif module in _NORMS:
                names.add(f"{block}.{_NORMS[module]}.{leaf}", source, tensor)
            elif module in _DENSE:
                flat = _flat_heads(tensor, leaf, fuse_last=False)
                names.add(f"{block}.{_DENSE[module]}.{leaf}", source, flat)
            else:
                names.add(source, source, tensor)
    for (block, leaf), parts in fused.items():
        if lacking := [p for p in _QUERY_KEY_VALUE if p not in parts]:
            raise CheckpointError(f"{str(path)!r}: {block} lacks {', '.join(lacking)}.")
        ordered = [parts[p] for p in _QUERY_KEY_VALUE]
        joined = concatenated([tensor for _, tensor in ordered], axis=-1)
        names.add(f"{block}.attn.c_attn.{leaf}", ordered[0][0], joined)
    return names


def _flat_heads(tensor: LazyTensor, leaf: str, *, fuse_last: bool) -> LazyTensor:
    """Join the axes of heads and head width: the last two, or for the output the first two."""
    if leaf == "bias":
        return tensor.reshaped(tensor.size)
    if len(tensor.shape) != 3:
        return tensor
    first, middle, last = tensor.shape
    return tensor.reshaped(*((first, middle * last) if fuse_last else (first * middle, last)))
