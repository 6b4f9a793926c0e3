"""Checkpoints of a run: folders ``checkpoint-N`` that appear whole, of which the newest are kept.

A checkpoint is the model's folder, as `save_pretrained` writes it, with the tokenizer's files and
beside them ``optimizer.safetensors`` (AdamW's moments) and ``training_state.json`` (the step, where
the data stands, the sums that the log needs). Random numbers are functions of the seed and the
step, so there is no generator to keep. The three backends write the same files, and each reads the
others'.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gpt2x.errors import CheckpointError
from gpt2x.formats import safetensors
from gpt2x.storage.atomic import atomic_folder, check_finished
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import LazyTensor

OPTIMIZER, STATE = "optimizer.safetensors", "training_state.json"
#: Of the run, not of the model: what an exported model leaves behind.
OWN_FILES = (OPTIMIZER, STATE)

_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class Progress:
    """What a run knows at a step, besides weights and moments.

    Attributes:
        step: optimizer steps that are done.
        tokens: that the model has read in them.
        loss_sum: of the losses of all steps.
        logged: steps of which `logged_loss` is the sum, since the last line of the log.
        logged_loss: see `logged`.
        feed: where the data stands.
        best_loss: the lowest evaluation loss so far.
        best_step: its step.
        without_better: evaluations since the best one.
        seconds: for which the run has trained.
        settings: of the run, which cannot change on the way.
    """

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    logged: int = 0
    logged_loss: float = 0.0
    feed: dict[str, Any] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int = 0
    without_better: int = 0
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)


# What JSON makes of the types of the fields.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "dict[str, Any]": (dict,),
}


def path_of(output_dir: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return output_dir / f"checkpoint-{step}"


def found(output_dir: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by their steps, the oldest first."""
    if not output_dir.is_dir():
        return {}
    steps = {
        int(match[1]): path
        for path in output_dir.iterdir()
        if (match := _NAME.fullmatch(path.name)) and (path / STATE).is_file()
    }
    return dict(sorted(steps.items()))


def save(
    output_dir: Path,
    progress: Progress,
    moments: Mapping[str, np.ndarray],
    save_model: Callable[[Path], None],
) -> Path:
    """Write the checkpoint of a step; a checkpoint is there whole or not at all.

    Args:
        output_dir: the run's folder.
        progress: what the run knows.
        moments: of the optimizer, as `Engine.state` gives them.
        save_model: writes the model's files into a folder.
    """
    path = path_of(output_dir, progress.step)
    with atomic_folder(path) as folder:
        save_model(folder)
        tensors = {name: LazyTensor.of(array) for name, array in moments.items()}
        safetensors.write(folder / OPTIMIZER, tensors, {"format": "pt"})
        (folder / STATE).write_text(json.dumps(asdict(progress), indent=2) + "\n", "utf-8")
    return path


def read_progress(path: Path) -> Progress:
    """Return what the run of a checkpoint knew; raises CheckpointError if it is damaged."""
    check_finished(path)
    content = read_object(path / STATE)
    if content.keys() != {each.name for each in fields(Progress)}:
        raise CheckpointError(
            f"{str(path / STATE)!r} does not hold the state of a run of this version. Start a new "
            "run, with that folder as model_name_or_path."
        )
    progress = Progress(**content)
    if wrong := _wrong(progress, path):
        raise CheckpointError(
            f"{str(path / STATE)!r} is damaged: {wrong}. Delete its folder, and resume from the "
            "checkpoint before it."
        )
    return progress


def _wrong(progress: Progress, path: Path) -> str | None:
    """Return what a run cannot have known, of the checkpoint in a folder."""
    for each in fields(Progress):
        value, wanted = getattr(progress, each.name), _KINDS[str(each.type)]
        is_good = isinstance(value, wanted) and not isinstance(value, bool)
        if not is_good or (isinstance(value, int) and value < 0):
            return f"{each.name} is {value!r:.40}"
    if path_of(path.parent, progress.step).name != path.name:
        return f"step is {progress.step}"
    rows = progress.feed.get("rows", 0)  # streams check their own place
    if not isinstance(rows, int) or rows < 0:
        return f"the row of its data is {rows!r:.40}"
    return None


class _Moments(dict[str, np.ndarray]):
    """Moments by their names; one that is missing is an error of the checkpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(load_file(path))
        self._path = path

    def __missing__(self, name: str) -> np.ndarray:
        raise CheckpointError(f"{str(self._path)!r} does not hold {name!r} of this model.")


def read_moments(path: Path) -> Mapping[str, np.ndarray]:
    """Return the optimizer's moments of a checkpoint.

    Raises CheckpointError if the file is damaged, and where a moment is asked for that it lacks.
    """
    try:
        return _Moments(path / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read {str(path / OPTIMIZER)!r}: {error}") from error


def prune(output_dir: Path, limit: int | None, keep: int) -> None:
    """Delete all checkpoints but the newest `limit` and that of step `keep`."""
    checkpoints = found(output_dir)
    for step in [*checkpoints][: -limit if limit else 0]:
        if step != keep:
            delete(checkpoints[step])


def delete(path: Path) -> None:
    """Delete a checkpoint, which another process of the run may do at the same time."""
    # Its state goes first: what is left of a deletion cut short is not taken for a checkpoint.
    (path / STATE).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
