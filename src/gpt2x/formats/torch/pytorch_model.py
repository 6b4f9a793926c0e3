"""``pytorch_model.bin``, and other files of a state dict that torch saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, WeightsFormat
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch.pickle_machine import Inert
from gpt2x.formats.torch.serialization import is_saved, load
from gpt2x.formats.torch.writer import write
from gpt2x.storage.budget import Budget
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import pytorch_name
from gpt2x.weights.table import PYTORCH

# The keys of the weights in files of training scripts, beside optimizer and progress.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def _read_file(checkpoint: Checkpoint, path: Path, budget: Budget) -> dict[str, LazyTensor]:
    """Return a file's state dict, either alone or under a usual key of training scripts."""
    return state_dict(load(checkpoint.hold(BinaryFile(path, budget))), path)


def state_dict(saved: Any, path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a saved state dict, without its scalars (epochs, versions).

    Raises CheckpointError if an entry is neither a tensor nor a scalar.
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


FORMAT = WeightsFormat(
    name="pytorch",
    rank=100,
    place=2,
    weights="pytorch_model.bin",
    patterns=("*.pt", "*.pth", "*.ckpt", "*.bin"),
    recognises=is_saved,
    read_file=_read_file,
    rename=lambda metadata: pytorch_name,
    write_file=write,
    spelling=PYTORCH,
    keeps_tied_head=True,
)
