"""The arguments of a training run: one table for Python, the command line and config files.

Names, and defaults unless said otherwise, are those of transformers' `TrainingArguments` and of its
script `run_clm.py`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from gpt2x.errors import InvalidInputError, check_choice, check_count, unknown_arguments

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "wsd")


def argument(default: Any, help: str, **metadata: Any) -> Any:
    """A field of the arguments: its default, and what the command line's help says of it."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(kw_only=True)
class TrainingArguments:
    """What every training run takes, whatever it trains.

    Raises InvalidInputError for a value that cannot be used.
    """

    output_dir: str = argument(MISSING, "Folder for the model, its checkpoints and logs.")
    train_file: list[str] = argument(
        (), "Training data: .txt, .jsonl, .csv, .parquet ..., patterns, - for standard input."
    )
    validation_file: list[str] = argument((), "Validation data.")
    model_name_or_path: str | None = argument(None, "Model to start from.")
    tokenizer_name: str | None = argument(None, "Tokenizer, if it is not the model's.")
    backend: str | None = argument(None, "pt, tf or flax; by default the one installed.")

    per_device_train_batch_size: int = argument(8, "Rows a device reads at once in training.")
    per_device_eval_batch_size: int = argument(8, "Rows a device reads at once in evaluation.")
    gradient_accumulation_steps: int = argument(1, "Batches whose gradients make one step.")
    num_train_epochs: float = argument(3.0, "Passes over the training data.")
    max_steps: int = argument(-1, "Optimizer steps in all; above 0 it replaces the epochs.")

    learning_rate: float = argument(5e-5, "The learning rate at its highest.")
    lr_scheduler_type: str = argument("linear", f"{', '.join(SCHEDULES)}.")
    warmup_steps: int = argument(0, "Steps in which the learning rate rises from 0.")
    warmup_ratio: float = argument(0.0, "The same as a share of all steps.")
    min_lr_ratio: float = argument(0.0, "Share of the learning rate at which schedules end.")
    decay_ratio: float = argument(0.1, "wsd: share of all steps in which the rate falls.")
    weight_decay: float = argument(0.0, "Decay of matrices; vectors are not decayed.")
    adam_beta1: float = argument(0.9, "Decay of AdamW's first moment.")
    adam_beta2: float = argument(0.999, "Decay of AdamW's second moment.")
    adam_epsilon: float = argument(1e-8, "Added to the root of the second moment.")
    max_grad_norm: float = argument(1.0, "Largest norm of all gradients together; 0 for any.")

    bf16: bool = argument(False, "Compute in bfloat16; weights stay in float32.")
    gradient_checkpointing: bool = argument(False, "Compute blocks twice to save memory.")
    seed: int = argument(42, "Of initial weights, of the order of the data and of dropout.")

    logging_steps: int = argument(10, "Steps from one line of the log to the next.")
    eval_steps: int | None = argument(None, "Steps between evaluations; by default at the end.")
    save_steps: int = argument(500, "Steps from one checkpoint to the next.")
    save_total_limit: int | None = argument(2, "How many checkpoints are kept, the newest.")
    early_stopping_patience: int | None = argument(
        None, "Stop after this many evaluations without a better loss, and keep the best model."
    )
    resume: bool = argument(False, "Go on from the newest checkpoint, if there is one.")
    overwrite_output_dir: bool = argument(False, "Delete an earlier run in the folder.")
    skip_bad_records: bool = argument(False, "Leave records out that cannot be used.")
    push_to_hub: bool = argument(False, "Upload the model when it is done.")
    hub_model_id: str | None = argument(None, "Its name on the hub, by default the folder's.")
    hub_token: str | None = argument(None, "Access token of the hub.")

    def __post_init__(self) -> None:
        for name in ("train_file", "validation_file"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str) else [*value])
        for name, value in self._values():
            _check_type(name, value, self._type(name))
        check_choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        for name in _POSITIVE:
            check_count(name, getattr(self, name), 1)
        for name in ("warmup_ratio", "min_lr_ratio", "decay_ratio"):
            self._check_range(name, 0.0, 1.0)
        for name in ("adam_beta1", "adam_beta2"):
            self._check_range(name, 0.0, 1.0, below=True)
        for name in ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm"):
            self._check_range(name, 0.0)
        check_count("warmup_steps", self.warmup_steps, 0)
        check_count("seed", self.seed, 0)
        if self.max_steps < 1 and not self.num_train_epochs > 0:
            raise InvalidInputError("Pass max_steps or num_train_epochs, above 0.")

    def _values(self) -> list[tuple[str, Any]]:
        return [(each.name, getattr(self, each.name)) for each in fields(self)]

    @classmethod
    def _type(cls, name: str) -> Any:
        return typing.get_type_hints(cls)[name]

    def _check_range(
        self, name: str, least: float, most: float | None = None, below: bool = False
    ) -> None:
        value = getattr(self, name)
        is_good = value >= least and (most is None or (value < most if below else value <= most))
        if not is_good:
            until = "" if most is None else f" and {'below' if below else 'at most'} {most:g}"
            raise InvalidInputError(f"{name} is {value!r}; it must be at least {least:g}{until}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the arguments of these values, which may come from a file.

        Raises InvalidInputError for a name that is not an argument.
        """
        known = [each.name for each in fields(cls)]
        if unknown := set(values) - set(known):
            raise InvalidInputError(unknown_arguments("train", unknown, known))
        if missing := [each.name for each in required(cls) if each.name not in values]:
            raise InvalidInputError(f"Training needs {' and '.join(missing)}.")
        return cls(**values)


_POSITIVE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "early_stopping_patience",
)


def required(cls: type[TrainingArguments]) -> list[Field[Any]]:
    """Return the arguments without a default."""
    return [each for each in fields(cls) if each.default is MISSING]


def _check_type(name: str, value: Any, wanted: Any) -> None:
    """Raise InvalidInputError unless a value is of the type of its argument."""
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return
    if isinstance(value, bool) and bool not in kinds or not isinstance(value, kinds):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InvalidInputError(f"{name} is {value!r}; it must be {names}.")
