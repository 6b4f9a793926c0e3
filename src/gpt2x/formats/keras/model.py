"""Keras 3's files of `gpt2x.tf`: ``.weights.h5``, and the ``.keras`` archive around one.

A variable stands under its path of attributes, ``base_model/h/tfgpt2_block_1/attn/c_attn/vars/0``;
lists number their items by class name. Read without TensorFlow, written by it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2x import backends
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.keras.archive import open_archive
from gpt2x.formats.tensorflow import h5 as tf_h5
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import CanonicalNames, LazyTensor
from gpt2x.weights.names import to_canonical
from gpt2x.weights.table import TENSORFLOW, Head

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config

_VARIABLE = re.compile(r"(.+)/vars/([01])")
_BODY = re.compile(r"^(?:.*/)?(?:base_model|transformer)/")
_BLOCK = re.compile(r"h/tfgpt2_block(?:_(\d{1,9}))?/")


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a ``.weights.h5`` or ``.keras`` file; raises CheckpointError if it is damaged."""
    with ExitStack() as stack:
        saved: dict[str, Any] = {}
        stream = None
        if zipfile.is_zipfile(path):
            archive = open_archive(path)
            saved, stream = archive.saved, archive.weights
            stack.callback(stream.close)
        raw = tf_h5.open_raw(path, stream=stream)
        stack.callback(raw.close)
        names = _name_tensors(path, raw.tensors)
        if "wte.weight" not in names.tensors:
            kind = f", a {saved['class_name']} of Keras," if "class_name" in saved else ""
            raise CheckpointError(f"{str(path)!r}{kind} holds no GPT-2 of gpt2x.tf or KerasHub.")
        return Checkpoint(
            "keras-tf",
            path,
            names.tensors,
            config=_config(saved),
            ignored=names.ignored,
            source_names=names.source_names,
            close=stack.pop_all().close,
        )


def _config(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The GPT2Config that the config of a Keras model holds."""
    config = saved.get("config", {}).get("config")
    if not isinstance(config, dict):
        return None
    return {**config, "architectures": [str(saved.get("class_name")).removeprefix("TF")]}


def _name_tensors(path: Path, tensors: Mapping[str, LazyTensor]) -> CanonicalNames:
    names = CanonicalNames(path)
    for source, tensor in tensors.items():
        match = _VARIABLE.fullmatch(source)
        module = _BODY.sub("", match[1]) if match else ""
        if match is None or module.startswith(("optimizer", "seed_generator")) or "/seed" in module:
            names.ignore(source, "no weight of the model (optimizer or state)")
            continue
        module = _BLOCK.sub(lambda block: f"h/{int(block[1] or 0)}/", module)
        name = f"{module.replace('/', '.')}.{'bias' if match[2] == '1' else 'weight'}"
        try:
            names.add(name, source, to_canonical(tensor, TENSORFLOW.layout(name)))
        except InvalidInputError:
            names.add(source, source, tensor)  # reported as left over
    return names


def write(
    path: Path,
    config: GPT2Config,
    head: Head,
    tensors: Mapping[str, LazyTensor],
    generation_config: Path | None = None,
) -> None:
    """Write a ``.keras`` file, or ``.weights.h5``, by saving a model of `gpt2x.tf`.

    Raises MissingBackendError without TensorFlow.
    """
    saving = backends.load("tf", "Writing Keras files", module="keras.saving")
    saving.save_keras(path, config, head, tensors, generation_config)
