"""What one kind of training brings to a run: its data, its model and its task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpt2x import backends
from gpt2x.config import GPT2Config
from gpt2x.config.lora import ALL_LINEAR, LoraConfig
from gpt2x.data import EMBEDDED_MODEL
from gpt2x.errors import InvalidInputError
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.feed import Rows, Stream
from gpt2x.train.loop import Task
from gpt2x.weights.table import Head

#: Tokens of a row by default, if the model can read as many.
MOST_TOKENS = 1024


class Prediction(NamedTuple):
    """What the model that a run leaves is asked at the end.

    Attributes:
        rows: to predict.
        lines: returns a line of JSON for each row, given the logits of each.
        scores: returns further results, given the same.
    """

    rows: Rows
    lines: Callable[[Sequence[np.ndarray]], Iterable[Mapping[str, Any]]]
    scores: Callable[[Sequence[np.ndarray]], Mapping[str, float]]


class Data(NamedTuple):
    """The data of a run.

    Attributes:
        train: rows, or a stream of them.
        validation: rows, or None.
        settings: of the data and the rows, which cannot change while a run goes on.
        counts: further results.
        prediction: what is predicted at the end, or None.
    """

    train: Rows | Stream
    validation: Rows | None
    settings: Mapping[str, Any]
    counts: Mapping[str, int] = MappingProxyType({})
    prediction: Prediction | None = None


class Job(Protocol):
    """One kind of training, made of its arguments, the backend's name, the checkpoint from which a
    run goes on, or None, and what is called with the error of each bad record.
    """

    task: Task

    def start(self, folder: Path, checkpoint: Path | None) -> str | Path:
        """Return the model to start from: a name, or `folder`, after writing a new one there.

        It is the checkpoint, if there is one and it is not that of an adapter alone.
        """

    def load(self, backend: str, start: str | Path, checkpoint: Path | None) -> Any:
        """Return that model, in a backend, with the adapter that is trained, if there is one."""

    def data(self, config: GPT2Config) -> Data:
        """Return the data for a model of this config; `task` is there from then on."""


def give_adapter(model: Any, arguments: TrainingArguments, checkpoint: Path | None) -> None:
    """Give a model the adapter that is to be trained, if there is to be one.

    It is new, or that of the checkpoint from which the run goes on.
    """
    if arguments.lora_r is None:
        return
    if checkpoint is not None:
        model.load_adapter(checkpoint, is_trainable=True)
        return
    target = arguments.lora_target
    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=target if target == ALL_LINEAR else target.replace(" ", "").split(","),
        base_model_name_or_path=str(arguments.model_name_or_path or EMBEDDED_MODEL),
    )
    model.add_adapter(config, seed=arguments.seed)


def load_model(
    backend: str, head: Head, name: str | Path, tokenizer: Any, *, grows: bool = True
) -> Any:
    """Return a model with a head, in float32, that has every token of a tokenizer.

    Raises InvalidInputError if it would need new rows and does not grow, or is an adapter's.
    """
    package = backends.load(backend, wanted_by="Training")
    model = getattr(package, backends.get(backend).prefix + head.value).from_pretrained(name)
    if model.adapter_config is not None:
        raise InvalidInputError(
            f"{str(name)!r} holds an adapter. Start from its model, or from both in one folder: "
            "gpt2x convert MODEL FOLDER --merge-adapter ADAPTER."
        )
    # Tokens may have been added to the tokenizer; a vocabulary larger than it stays.
    if len(tokenizer) > model.config.vocab_size:
        if not grows:
            raise InvalidInputError(
                f"The tokenizer has {len(tokenizer)} tokens and the model "
                f"{model.config.vocab_size}; an adapter does not hold new rows. Give them to the "
                "model first (resize_token_embeddings, save_pretrained), or leave out lora_r."
            )
        model.resize_token_embeddings(len(tokenizer))
    return model


def row_length(name: str, asked: int | None, config: GPT2Config) -> int:
    """Return how many tokens a row has at most: what was asked for, by the argument of this name.

    Raises InvalidInputError if the model cannot read as many.
    """
    size = asked or min(config.n_positions, MOST_TOKENS)
    if size > config.n_positions:
        raise InvalidInputError(
            f"{name} is {size}; this model reads at most {config.n_positions} tokens."
        )
    return size
