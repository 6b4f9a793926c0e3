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
from safetensors.numpy import load_file, save_file

from gpt2x.errors import CheckpointError
from gpt2x.storage.atomic import atomic_folder, check_finished
from gpt2x.storage.json_files import read_object

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
        evaluated_step: of the last evaluation.
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
    evaluated_step: int = -1
    without_better: int = 0
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)


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
        save_file(
            {name: np.ascontiguousarray(array) for name, array in moments.items()},
            folder / OPTIMIZER,
            {"format": "pt"},
        )
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
    return Progress(**content)


def read_moments(path: Path) -> dict[str, np.ndarray]:
    """Return the optimizer's moments of a checkpoint; raises CheckpointError if damaged."""
    try:
        return load_file(path / OPTIMIZER)
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
