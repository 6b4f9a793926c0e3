"""What one kind of training brings to a run: its data, its model and its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gpt2x import backends
from gpt2x.config import GPT2Config
from gpt2x.config.lora import LoraConfig
from gpt2x.corpus import OnBad
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.feed import Rows, Stream
from gpt2x.train.loop import Task
from gpt2x.weights.table import Head


class Data(NamedTuple):
    """The data of a run.

    Attributes:
        train: rows, or a stream of them.
        validation: rows, or None.
        settings: of the data and the rows, which cannot change while a run goes on.
    """

    train: Rows | Stream
    validation: Rows | None
    settings: Mapping[str, Any]


class Job(Protocol):
    """One kind of training, made of its arguments, the backend's name, and the checkpoint from
    which a run goes on, or None.
    """

    task: Task

    def start(self, folder: Path) -> str | Path:
        """Return the model to start from: a name, or `folder`, after writing a new one there."""

    def load(self, backend: str, start: str | Path) -> Any:
        """Return that model, in a backend."""

    def data(self, config: GPT2Config, on_bad: OnBad) -> Data:
        """Return the data for a model of this config; records that are bad go to `on_bad`."""


def give_adapter(model: Any, arguments: TrainingArguments, checkpoint: Path | None) -> None:
    """Give a model the adapter that is to be trained, if there is to be one.

    It is new, or that of the checkpoint from which the run goes on.
    """
    if arguments.lora_r is None:
        return
    if checkpoint is not None:
        model.load_adapter(checkpoint, is_trainable=True)
        return
    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target.split(","),
    )
    model.add_adapter(config, seed=arguments.seed)


def load_model(backend: str, head: Head, name: str | Path) -> Any:
    """Return a model with a head, in float32."""
    package = backends.load(backend, wanted_by="Training")
    return getattr(package, backends.get(backend).prefix + head.value).from_pretrained(name)
