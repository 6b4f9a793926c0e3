"""The model of an adapter that brings a head: its body is in one place, its head in another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpt2x.checkpoint.adapter import PREFIX, WEIGHTS_NAMES
from gpt2x.config import GPT2Config
from gpt2x.config.model import CONFIG_NAME
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.opening import open_checkpoint
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Head

# Parameters of heads that learn labels; the first of each has a row for each label.
_HEADS = {
    Head.SEQUENCE_CLASSIFICATION: ("score.weight",),
    Head.TOKEN_CLASSIFICATION: ("classifier.weight", "classifier.bias"),
}


def give_head(checkpoint: Checkpoint, adapter: str | os.PathLike[str], **where: Any) -> None:
    """Give an open checkpoint the head that an adapter holds, and the config of both together.

    A classifier's adapter has its head among its whole weights, and is often that of a model
    without such a head. The config is the one beside the adapter, or else the model's with as many
    labels as the head has. Without a head in the adapter the checkpoint stays as it is.

    Args:
        checkpoint: of the model; its tensors and config are replaced.
        adapter: folder or hub name of the adapter.
        **where: arguments of `gpt2x.storage.hub.ModelFiles`.

    Raises:
        CheckpointError: if the adapter's files cannot be found or read.
    """
    files = ModelFiles(os.fspath(adapter), **where)
    path = next((path for name in WEIGHTS_NAMES if (path := files.find(name)) is not None), None)
    if path is None:  # an error of whoever opens the adapter
        return
    head, tensors = _head_in(path)
    if head is None or checkpoint.config is None:
        return
    checkpoint.replace(tensors)
    beside = files.find(CONFIG_NAME)
    values = checkpoint.config if beside is None else read_object(beside)
    labels = tensors[_HEADS[head][0]].shape[0]
    if GPT2Config.from_dict(values).num_labels != labels:
        values = {n: v for n, v in values.items() if n not in ("id2label", "label2id")}
        values["num_labels"] = labels
    checkpoint.config = {**values, "architectures": [head.architecture]}


def _head_in(path: Path) -> tuple[Head | None, dict[str, LazyTensor]]:
    """Return the head in an adapter's file, with its tensors in memory; None without one."""
    with open_checkpoint(path) as tensors:
        for head, names in _HEADS.items():
            if all(f"{PREFIX}{name}" in tensors for name in names):
                found = {name: tensors[f"{PREFIX}{name}"].read() for name in names}
                return head, {name: LazyTensor.of(array) for name, array in found.items()}
    return None, {}
