"""KerasHub's GPT-2: a preset folder, or the ``.weights.h5`` or ``.keras`` of a GPT2Backbone or
GPT2CausalLM.

Keras 3 stores a variable under its layer's path, ``layers/transformer_decoder_1/.../vars/0``.
Queries, keys and values are separate projections [E, heads, head width]. Source: KerasHub 0.32,
``keras_hub/src/models/gpt2`` and ``keras_hub/src/layers/modeling/transformer_decoder.py``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.formats import shards
from gpt2x.formats.base import Checkpoint, Format, UnknownFile
from gpt2x.formats.keras.archive import module_in, open_archive
from gpt2x.formats.tensorflow.hdf5 import Kind, kind_of, read_file
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.infer import end_of_text_ids, infer_config
from gpt2x.weights.lazy import LazyTensor, concatenated

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


def _recognises(file: UnknownFile) -> bool:
    if file.path.name == SHARDS_NAME or kind_of(file) is Kind.FUNCTIONAL:
        return True
    return (module_in(file) or "").startswith("keras_hub")


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a ``.weights.h5`` or ``.keras`` file, or the ``model.weights.json`` of a preset.

    The config is that of the ``.keras`` file, or the config.json of the preset beside it.
    """
    path, stream = checkpoint.path, None
    if zipfile.is_zipfile(path):
        archive = open_archive(path, tuple(_ASSETS))
        stream = checkpoint.hold(archive.weights)
        checkpoint.config = _config(path, _backbone(archive.saved))
        checkpoint.tokenizer_files = {_ASSETS[n]: data for n, data in archive.assets.items()}
    if path.name == SHARDS_NAME:
        checkpoint.files = tuple(_shards(path, files))
    tensors: dict[str, LazyTensor] = {}
    budget = Budget(str(path))
    for shard in checkpoint.files:
        tensors |= read_file(checkpoint, shard, budget, stream=stream)
    _add_tensors(checkpoint, tensors)
    beside = files.find(CONFIG_NAME)
    if checkpoint.config is None and beside is not None:
        checkpoint.config = _config(beside, read_object(beside))
    if checkpoint.config is None:
        checkpoint.config = infer_config(checkpoint, _heads(tensors))


def _shards(path: Path, files: ModelFiles) -> Iterable[Path]:
    """Return the files in a preset's list of shards; a layer may be in several of them."""
    weight_map = read_object(path).get("weight_map")
    values = weight_map.values() if isinstance(weight_map, dict) else []
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    if not names:
        raise CheckpointError(f"{str(path)!r} lists no shards.")
    return shards.find_shards(files, path, names).values()


def _is_preset(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is KerasHub's and not transformers'."""
    return config.get("class_name") == "GPT2Backbone" and isinstance(config.get("config"), dict)


def _backbone(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the backbone in that of a model; the model may be a backbone itself."""
    inside = saved["config"].get("backbone")
    return inside if isinstance(inside, dict) else saved


def _config(path: Path, preset: Mapping[str, Any]) -> dict[str, Any] | None:
    if not _is_preset(preset):
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
    rate = backbone.get("dropout", 0.1)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), rate)
    return {**config, **dropout, **end_of_text_ids(config["vocab_size"])}


def _heads(tensors: Mapping[str, LazyTensor]) -> int | None:
    """The number of heads, which the shapes of this format tell."""
    queries = [t for name, t in tensors.items() if name.endswith("query_dense/vars/0")]
    return queries[0].shape[1] if queries and len(queries[0].shape) == 3 else None


def _add_tensors(checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor]) -> None:
    attention: dict[str, dict[str, tuple[str, LazyTensor]]] = {}
    for source, tensor in tensors.items():
        match = _PATH.fullmatch(source)
        if match is None:
            checkpoint.ignored[source] = "no weight of the model (optimizer or state)"
            continue
        layer, module, leaf = match[1], match[2] or "", _LEAVES[match[3]]
        decoder = _DECODER.fullmatch(layer)
        projection = module.rpartition("/")[2]
        if decoder and projection in _QUERY_KEY_VALUE:
            parts = attention.setdefault(f"h.{int(decoder[1] or 0)}.attn.c_attn.{leaf}", {})
            parts[projection] = source, _joined_heads(tensor, leaf, first=False)
        else:
            name = _canonical_name(layer, module, leaf)
            if decoder and module in _DENSE:
                tensor = _joined_heads(tensor, leaf, first=True)
            checkpoint.add(name or source, source, tensor)  # without a name, left over
    for name, parts in attention.items():
        if lacking := [p for p in _QUERY_KEY_VALUE if p not in parts]:
            block = name.partition(".attn")[0]
            raise CheckpointError(f"{str(checkpoint.path)!r}: {block} lacks {', '.join(lacking)}.")
        sources, ordered = zip(*(parts[p] for p in _QUERY_KEY_VALUE), strict=True)
        checkpoint.add(name, sources[0], concatenated(ordered, axis=-1))


def _canonical_name(layer: str, module: str, leaf: str) -> str | None:
    if layer in _EMBEDDINGS:
        return _EMBEDDINGS[layer]
    if layer == "layer_normalization":
        return f"ln_f.{leaf}"
    decoder, ours = _DECODER.fullmatch(layer), {**_NORMS, **_DENSE}.get(module)
    return f"h.{int(decoder[1] or 0)}.{ours}.{leaf}" if decoder and ours else None


def _joined_heads(tensor: LazyTensor, leaf: str, *, first: bool) -> LazyTensor:
    """Join the axes of heads and head width: the first two of the output's, else the last two."""
    if leaf == "bias":
        return tensor.reshaped(tensor.size)
    if len(tensor.shape) != 3:
        return tensor
    a, b, c = tensor.shape
    return tensor.reshaped(*((a * b, c) if first else (a, b * c)))


FORMAT = Format(
    name="keras-hub",
    rank=20,
    patterns=(SHARDS_NAME,),
    recognises=_recognises,
    read=_read,
)
