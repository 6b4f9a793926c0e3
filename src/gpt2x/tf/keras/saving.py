"""Keras's own files, ``.keras`` and ``.weights.h5``, from the tensors of any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt2x import tf as package
from gpt2x.config import GPT2Config
from gpt2x.generation import GenerationConfig
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import TENSORFLOW, Head


def save_keras(
    path: Path,
    config: GPT2Config,
    head: Head,
    tensors: Mapping[str, LazyTensor],
    generation_config: Path | None = None,
) -> None:
    """Make a model, give it the tensors and save it as Keras does.

    Args:
        path: the file; its suffix, ``.keras`` or ``.weights.h5``, says which.
        config: of the model.
        head: of the model.
        tensors: canonical name -> tensor in canonical layout, all of one dtype.
        generation_config: the generation_config.json that a ``.keras`` file holds as well.
    """
    kind = getattr(package, f"TFGPT2{head.value}")
    model = kind._from_config(config, dtype=tensors["wte.weight"].dtype.name)
    for name, variable in model._canonical_variables():
        variable.assign(TENSORFLOW.layout(name).from_canonical(tensors[name].read()))
    if generation_config is not None and kind.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(generation_config.parent)
    if path.suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
