"""The file of a key-value cache: a safetensors file, the same for the three backends.

Tensors, for each layer i of L and the S filled positions:

    layers.i.key, layers.i.value               [B, H, S, D], all of one floating dtype
    layers.i.cross_key, layers.i.cross_value   [B, H, encoder length, D], if there is an encoder
    input_ids                                  int32 [B, S], if they are known
    attention_mask                             int32 [B, S], 0 at padding, if there is any

Metadata: ``format`` ("gpt2x-kv-cache"), ``version``, ``layers``, ``length``, and ``model``, a JSON
object with the fields of the model's config that its keys and values depend on.

B batch, H heads, S tokens, D head_dim, L layers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats import safetensors
from gpt2x.formats.base import Checkpoint
from gpt2x.storage.atomic import atomic_file
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import load_json
from gpt2x.weights.lazy import BFLOAT16, LazyTensor

FORMAT = "gpt2x-kv-cache"
VERSION = "1"

_DTYPES = (np.dtype("<f4"), BFLOAT16, np.dtype("<f2"), np.dtype("<f8"))
_OWN, _CROSS = ("key", "value"), ("cross_key", "cross_value")


class SavedCache(NamedTuple):
    """The content of a file.

    Attributes:
        layers: for each layer, keys and values [B, H, S, D], and those of cross-attention if any.
        input_ids: int32 [B, S], or None if they are not known.
        attention_mask: int32 [B, S], 0 at padding, or None for no padding.
        model: fields of the config of the model, or {} if it is not known.
    """

    layers: list[tuple[np.ndarray, ...]]
    input_ids: np.ndarray | None
    attention_mask: np.ndarray | None
    model: dict[str, Any]


def write(
    path: str | os.PathLike[str],
    layers: list[tuple[LazyTensor, ...]],
    text: Mapping[str, np.ndarray],
    model: Mapping[str, Any],
) -> None:
    """Write a cache beside `path`, and then move it there: a file is whole or is not there.

    Args:
        path: of the file; its folder is made if need be.
        layers: as in `SavedCache`, read one tensor at a time.
        text: `input_ids` and `attention_mask`, as far as they are known.
        model: as in `SavedCache`.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a folder; give the name of a file to save to.")
    tensors = {name: LazyTensor.of(array) for name, array in text.items()}
    for number, layer in enumerate(layers):
        names = [f"layers.{number}.{part}" for part in (*_OWN, *_CROSS)[: len(layer)]]
        tensors |= zip(names, layer, strict=True)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "layers": str(len(layers)),
        "length": str(layers[0][0].shape[2]),
        "model": json.dumps(dict(model), sort_keys=True),
    }
    with atomic_file(path) as temporary:
        safetensors.write(temporary, tensors, metadata)


def read(path: str | os.PathLike[str]) -> SavedCache:
    """Read a cache; nothing in the file is run, and all of it is checked.

    Raises:
        CheckpointError: if it cannot be read, is damaged, or is not the file of a cache.
    """
    path = Path(path).expanduser()
    budget = Budget(str(path))
    with Checkpoint("safetensors", path) as file:
        tensors = safetensors.read_file(file, path, budget)
        metadata = file.metadata
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{str(path)!r} is not the file of a cache: KVCache.save writes the format "
                f"{FORMAT!r}, and this is {metadata.get('format')!r:.60}."
            )
        if metadata.get("version") != VERSION:
            raise CheckpointError(
                f"{str(path)!r} has version {metadata.get('version')!r:.60} of its format; this "
                f"gpt2x reads version {VERSION!r}. Update gpt2x, or compute the cache again."
            )
        for problem in _problems(tensors, metadata):
            raise _damaged(path, problem)
        model = _model(path, str(metadata.get("model")), budget)
        arrays = {name: tensor.read() for name, tensor in tensors.items()}
    ids, mask = arrays.pop("input_ids", None), arrays.pop("attention_mask", None)
    _check_text(path, ids, mask, model)
    parts = [part for part in (*_OWN, *_CROSS) if f"layers.0.{part}" in arrays]
    layers = [
        tuple(arrays[f"layers.{number}.{part}"] for part in parts)
        for number in range(int(metadata["layers"]))
    ]
    return SavedCache(layers, ids, mask, model)


def _problems(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the names, shapes and dtypes of a file."""
    # Compared as text: a number in a damaged file may have any length.
    found = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
    has_cross = "layers.0.cross_key" in tensors
    parts = (*_OWN, *_CROSS) if has_cross else _OWN
    expected = {f"layers.{number}.{part}" for number in range(found) for part in parts}
    strange = (tensors.keys() - {"input_ids", "attention_mask"}) ^ expected
    wanted = metadata.get("layers")
    if not found or wanted != str(found) or strange:
        yield f"it has the tensors of {found} layers, and should have those of {wanted!r:.60}"
        return
    first = tensors["layers.0.key"]
    if len(first.shape) != 4 or first.dtype not in _DTYPES or 0 in first.shape:
        yield f"its keys are {first.dtype} {list(first.shape)}"
        return
    rows, _, length, _ = first.shape
    if metadata.get("length") != str(length):
        yield f"it holds {length} tokens, and should hold {metadata.get('length')!r:.60}"
    for name, tensor in tensors.items():
        yield from _odd(name, tensor, first, tensors.get("layers.0.cross_key"), (rows, length))


def _odd(
    name: str, tensor: LazyTensor, own: LazyTensor, cross: LazyTensor | None, text: tuple[int, int]
) -> Iterator[str]:
    """Yield what is wrong with a tensor."""
    like: tuple[Any, Any] = (own.shape, own.dtype)
    if not name.startswith("layers."):
        like = text, np.dtype(np.int32)
    elif "cross" in name and cross is not None:
        fits = len(cross.shape) == 4 and cross.shape[0] == text[0] and cross.dtype in _DTYPES
        like = (cross.shape, cross.dtype) if fits else ((text[0], "H", "any", "D"), own.dtype)
    if (tensor.shape, tensor.dtype) != like:
        yield f"{name} is {tensor.dtype} {list(tensor.shape)}, and should be {like[1]} {like[0]}"


def _model(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    """Return the model's fields."""
    try:
        model = load_json(text, budget)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its metadata about the model is not JSON") from error
    plain = (bool, int, float, str, type(None))
    if not isinstance(model, dict) or not all(isinstance(v, plain) for v in model.values()):
        raise _damaged(path, "its metadata about the model is not an object of plain values")
    return model


def _check_text(
    path: Path, ids: np.ndarray | None, mask: np.ndarray | None, model: Mapping[str, Any]
) -> None:
    """Raise unless ids are the model's and the mask marks text in every row."""
    if ids is not None:
        size = model.get("vocab_size")
        limit = size if isinstance(size, int) else np.iinfo(np.int32).max
        if ids.min() < 0 or ids.max() >= limit:
            raise _damaged(path, "it holds token ids that its model does not have")
    if mask is None:
        return
    if ids is None or not np.isin(mask, (0, 1)).all() or not mask.any(axis=1).all():
        raise _damaged(path, "its attention_mask is not one of 0 and 1 that marks text in each row")


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{str(path)!r} is damaged: {why}. Compute the cache again.")
