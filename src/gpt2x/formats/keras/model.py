"""Keras 3's files of `gpt2x.tf`: ``.weights.h5``, and the ``.keras`` archive around one.

A variable's name is its path of attributes, ``base_model/h/tfgpt2_block_1/attn/c_attn/vars/0``;
lists number their items by class name. Files are read without TensorFlow and written by it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2x import backends
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.base import Checkpoint, Format, ModelToWrite, stored_dtypes
from gpt2x.formats.keras.archive import module_in, open_archive
from gpt2x.formats.tensorflow.hdf5 import Kind, kind_of, read_file
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import to_canonical
from gpt2x.weights.table import TENSORFLOW

_VARIABLE = re.compile(r"(.+)/vars/([01])")
_BODY = re.compile(r"^(?:.*/)?(?:base_model|transformer)/")
_BLOCK = re.compile(r"h/tfgpt2_block(?:_(\d{1,9}))?/")


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a ``.weights.h5`` or ``.keras`` file; raises CheckpointError if it is damaged."""
    path, stream = checkpoint.path, None
    saved: dict[str, Any] = {}
    if zipfile.is_zipfile(path):
        archive = open_archive(path)
        saved, stream = archive.saved, checkpoint.hold(archive.weights)
    _add_tensors(checkpoint, read_file(checkpoint, path, Budget(str(path)), stream=stream))
    if "wte.weight" not in checkpoint:
        kind = f", a {saved['class_name']} of Keras," if "class_name" in saved else ""
        raise CheckpointError(f"{str(path)!r}{kind} holds no GPT-2 of gpt2x.tf or KerasHub.")
    checkpoint.config = _config(saved)


def _config(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the GPT2Config in the config of a Keras model."""
    config = saved.get("config", {}).get("config")
    if not isinstance(config, dict):
        return None
    return {**config, "architectures": [str(saved.get("class_name")).removeprefix("TF")]}


def _add_tensors(checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor]) -> None:
    for source, tensor in tensors.items():
        match = _VARIABLE.fullmatch(source)
        module = _BODY.sub("", match[1]) if match else ""
        if match is None or module.startswith(("optimizer", "seed_generator")) or "/seed" in module:
            checkpoint.ignored[source] = "no weight of the model (optimizer or state)"
            continue
        module = _BLOCK.sub(lambda block: f"h/{int(block[1] or 0)}/", module)
        name = f"{module.replace('/', '.')}.{'bias' if match[2] == '1' else 'weight'}"
        try:
            checkpoint.add(name, source, to_canonical(tensor, TENSORFLOW.layout(name)))
        except InvalidInputError:
            checkpoint.add(source, source, tensor)  # reported as left over


def _write(path: Path, model: ModelToWrite) -> None:
    """Write a ``.keras`` file, or ``.weights.h5``, by saving a model of `gpt2x.tf`.

    Raises MissingBackendError without TensorFlow.
    """
    saving = backends.load("tf", "Writing Keras files", module="keras.saving")
    tensors = model.cast()
    saving.save_keras(path, model.config, model.head, tensors, model.generation_config)
    model.progress(sum(tensor.nbytes for tensor in tensors.values()))


def _stored(tensors: Mapping[str, LazyTensor], dtype: str | None) -> dict[str, str]:
    mixed = len({tensor.dtype for tensor in tensors.values()}) > 1
    return stored_dtypes(tensors, dtype or ("float32" if mixed else None))  # a model has one dtype


FORMAT = Format(
    name="keras-tf",
    rank=30,
    patterns=("*.keras", "*.weights.h5"),
    recognises=lambda file: module_in(file) is not None or kind_of(file) is Kind.SUBCLASSED,
    read=_read,
    write=_write,
    weights="model.keras",
    suffixes=(".keras", ".weights.h5"),
    stored=_stored,
)
