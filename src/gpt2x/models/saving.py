"""The part of `save_pretrained` that needs no framework."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gpt2x.checkpoint.writing import plan_weights
from gpt2x.config import GPT2Config
from gpt2x.formats.base import WeightsFormat
from gpt2x.formats.registry import weights_format
from gpt2x.storage.atomic import atomic_folder
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head


def save_folder(
    path: str | os.PathLike[str],
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor | np.ndarray],
    head: Head,
    *,
    generation_config: Any = None,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    others: Mapping[str, LazyTensor] = MappingProxyType({}),
    prefix: bool | None = None,
    architecture: str | None = None,
) -> None:
    """Write a model's folder as transformers writes it; it appears whole or not at all.

    It has PyTorch's names and layouts, safetensors with ``format: pt``, and `architectures` and
    `dtype` in config.json. A tied output layer is not in safetensors; in ``pytorch_model.bin`` it
    is a second name of the embedding. Shards of an earlier save are removed.

    Args:
        path: the folder; it is made if it does not exist.
        config: the model's; it is not changed.
        tensors: canonical name -> tensor in canonical layout, read one at a time.
        head: of the model.
        generation_config: a `GenerationConfig`, or None to write none.
        max_shard_size: bytes of weights a file holds at most, or a string such as "5GB".
        safe_serialization: False writes ``pytorch_model.bin``.
        variant: write ``model.VARIANT.safetensors``.
        others: name in the file -> tensor that is not GPT-2's, of a user's own class.
        prefix: put the body's names under ``transformer``; by default if there is a head.
        architecture: name of the model class for config.json; by default transformers' for `head`.

    Raises:
        InvalidInputError: if `path` is a file, an option has an impossible value, or the generation
            config is invalid.
        WeightsError: if the tensors are not those of the config and head.
    """
    lazy = {
        name: tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor)
        for name, tensor in tensors.items()
    }
    plan_load(lazy, config, head, name="the model to save", strict=True)
    if generation_config is not None:
        generation_config.check_before_saving()
    format = weights_format("safetensors" if safe_serialization else "pytorch")
    written = copy.deepcopy(config)
    written.architectures = [architecture or head.architecture]
    written.dtype = lazy["wte.weight"].dtype.name
    stem, _, suffix = format.single(variant).rpartition(".")
    stale = (f"{stem}-*-of-*.{suffix}", *format.names(variant))
    options: dict[str, Any] = {"variant": variant, "others": others, "prefix": prefix}
    plan = plan_weights(lazy, config, head, format.name, max_shard_size, **options)
    with atomic_folder(path, replaces=stale) as folder:
        plan.write(folder)
        written.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
    if not safe_serialization:
        # A model's `save_pretrained` calls by `PretrainedMixin._save_folder`.
        warn_of_weights_read_first(
            Path(path), [weights_format("safetensors")], variant, stacklevel=5
        )


def warn_of_weights_read_first(
    path: Path, formats: Iterable[WeightsFormat], variant: str | None = None, *, stacklevel: int = 3
) -> None:
    """Warn if a saved folder also has other weights, which readers take first."""
    for name in (name for format in formats for name in format.names(variant)):
        if (path / name).is_file():
            warnings.warn(
                f"{str(path)!r} also holds {name}, which is read first; delete it if it is older.",
                stacklevel=stacklevel,
            )
