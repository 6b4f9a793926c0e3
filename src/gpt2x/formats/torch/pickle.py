"""Files of ``torch.save``, read without torch and without running what they contain.

Two layouts. Since torch 1.6 a zip archive: ``data.pkl`` holds the objects, ``data/KEY`` the raw
bytes of each storage, ``byteorder`` their byte order. Before that (and with
``_use_new_zipfile_serialization=False``) a sequence of pickles, after which the storages follow
one another, each behind its length. Either way a tensor is a call of
``torch._utils._rebuild_tensor_v2`` on a storage, an offset, a size and strides; several tensors may
share a storage.

Source of the formats: ``torch/serialization.py`` and ``torch/_utils.py`` of PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import RawFile
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch.legacy import LegacyReader
from gpt2x.formats.torch.pickle_machine import Inert
from gpt2x.formats.torch.tensors import Reader
from gpt2x.formats.torch.zip import ZipReader
from gpt2x.storage.budget import Budget
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import Rename, pytorch_name

# Under which key training scripts keep the weights, beside optimizer and progress.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def open_raw(path: Path, budget: Budget | None = None) -> RawFile:
    """Open one file that holds a state dict, bare or under a training script's usual key."""
    file = BinaryFile(path, budget)
    try:
        return RawFile(state_dict(load(file), file.path), {}, file.close)
    except BaseException:
        file.close()
        raise


def rename(metadata: Mapping[str, Any]) -> Rename:
    """How to read names."""
    return pytorch_name


def state_dict(saved: Any, path: Path) -> dict[str, LazyTensor]:
    """The tensors of a saved state dict; its scalars (epochs, versions) are left out.

    Raises CheckpointError where something else stands in place of a tensor.
    """
    for key in _STATE_DICT_KEYS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not any(isinstance(v, LazyTensor) for v in saved.values()):
        raise CheckpointError(f"{str(path)!r} holds no state dict: no tensors by name.")
    for name, value in saved.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{str(path)!r} holds no state dict: a name is of type {type(name).__name__}."
            )
        if isinstance(value, Inert):
            raise CheckpointError(
                f"{str(path)!r} holds {value!r:.100} as {name!r:.80}, where a tensor is needed. "
                "Objects of other classes are never loaded from a checkpoint."
            )
    return {name: value for name, value in saved.items() if isinstance(value, LazyTensor)}


def load(file: BinaryFile) -> Any:
    """Return the object saved in a file: containers and scalars, with `LazyTensor` for tensors.

    An object of any other class becomes an `Inert` record. Raises CheckpointError for a file that
    is corrupt, truncated, or claims more than it can hold.
    """
    start = file.read(0, min(2, file.size))
    if start == b"PK":
        reader: Reader = ZipReader(file)
    elif start[:1] in (b"\x80", b"(", b"L", b"I"):  # what a first pickle of any protocol opens with
        reader = LegacyReader(file)
    else:
        raise CheckpointError(
            f"{str(file.path)!r} is neither a zip archive nor a pickle, as torch.save writes them."
        )
    try:
        return reader.load()
    except CheckpointError as error:
        if str(file.path) in str(error):
            raise
        raise CheckpointError(
            f"{str(file.path)!r} is not a sound PyTorch checkpoint: {error}."
        ) from error
