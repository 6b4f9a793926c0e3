"""The arguments of a training run: one table for Python, the command line and config files.

Names, and defaults unless said otherwise, are those of transformers' `TrainingArguments` and of its
script `run_clm.py`.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

from gpt2x.config.model_fields import PROBLEM_TYPES
from gpt2x.corpus import RECORD_FORMATS
from gpt2x.errors import InvalidInputError, check_choice, check_count, unknown_arguments

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "wsd")


def _argument(default: Any, help: str, panel: str | None = None) -> Any:
    """A field of the arguments: its default, and what the help says of it, in which panel."""
    return field(default=default, metadata={"help": help, "panel": panel})


# Panels of the help.
_data = partial(_argument, panel="Data")
_model = partial(_argument, panel="Model")
_steps = partial(_argument, panel="Steps")
_optimizer = partial(_argument, panel="Optimizer")
_adapter = partial(_argument, panel="Adapter")
_computation = partial(_argument, panel="Computation")
_output = partial(_argument, panel="Log, evaluation and checkpoints")


@dataclass(kw_only=True)
class TrainingArguments:
    """What every training run takes, whatever it trains.

    Raises InvalidInputError for a value that cannot be used.
    """

    output_dir: str = _argument(MISSING, "Folder for the model, its checkpoints and logs.")
    train_file: list[str] = _data(
        (), "Training data: .txt, .jsonl, .csv, .parquet ..., patterns, - for standard input."
    )
    validation_file: list[str] = _data((), "Validation data.")
    model_name_or_path: str | None = _model(None, "Model to start from.")
    tokenizer_name: str | None = _model(None, "Tokenizer, if it is not the model's.")
    backend: str | None = _computation(None, "pt, tf or flax; by default the one installed.")

    per_device_train_batch_size: int = _steps(8, "Rows a device reads at once in training.")
    per_device_eval_batch_size: int = _steps(8, "Rows a device reads at once in evaluation.")
    gradient_accumulation_steps: int = _steps(1, "Batches whose gradients make one step.")
    num_train_epochs: float = _steps(3.0, "Passes over the training data.")
    max_steps: int = _steps(-1, "Optimizer steps in all; above 0 it replaces the epochs.")

    learning_rate: float = _optimizer(5e-5, "The learning rate at its highest.")
    lr_scheduler_type: str = _optimizer("linear", f"{', '.join(SCHEDULES)}.")
    warmup_steps: int = _optimizer(0, "Steps in which the learning rate rises from 0.")
    warmup_ratio: float = _optimizer(0.0, "The same as a share of all steps.")
    min_lr_ratio: float = _optimizer(0.0, "Share of the learning rate at which schedules end.")
    decay_ratio: float = _optimizer(0.1, "wsd: share of all steps in which the rate falls.")
    weight_decay: float = _optimizer(0.0, "Decay of matrices; vectors are not decayed.")
    adam_beta1: float = _optimizer(0.9, "Decay of AdamW's first moment.")
    adam_beta2: float = _optimizer(0.999, "Decay of AdamW's second moment.")
    adam_epsilon: float = _optimizer(1e-8, "Added to the root of the second moment.")
    max_grad_norm: float = _optimizer(1.0, "Largest norm of all gradients together; 0 for any.")

    lora_r: int | None = _adapter(None, "Train a LoRA adapter of this rank, not the whole model.")
    lora_alpha: float = _adapter(16.0, "What the adapter adds is multiplied by this over the rank.")
    lora_dropout: float = _adapter(0.0, "Dropout before the adapter.")
    lora_target: str = _adapter("c_attn", "Layers it changes: c_attn,c_proj ... or all-linear.")

    bf16: bool = _computation(False, "Compute in bfloat16; weights stay in float32.")
    mesh: str | None = _computation(
        None, "Flax: devices that share rows (data) and weights (fsdp), such as data=2,fsdp=2."
    )
    gradient_checkpointing: bool = _computation(False, "Compute blocks twice to save memory.")
    fsdp: bool = _computation(False, "Divide the model between processes (torchrun, PyTorch).")
    torch_compile: bool = _computation(False, "Compile the loss by torch.compile (PyTorch).")
    torch_compile_backend: str | None = _computation(
        None, "The compiler that does it, by default inductor; turns torch_compile on."
    )
    same_dropout: bool = _computation(
        False, "Draw dropout that is the same in each framework; slower in PyTorch."
    )
    seed: int = _steps(42, "Of initial weights, of the order of the data and of dropout.")

    logging_steps: int = _output(10, "Steps from one line of the log to the next.")
    eval_steps: int | None = _output(None, "Steps between evaluations; by default at the end.")
    save_steps: int = _output(500, "Steps from one checkpoint to the next.")
    save_total_limit: int | None = _output(2, "How many checkpoints are kept, the newest.")
    early_stopping_patience: int | None = _output(
        None, "Stop after this many evaluations without a better loss, and keep the best model."
    )
    resume: bool = _output(False, "Go on from the newest checkpoint, if there is one.")
    overwrite_output_dir: bool = _output(False, "Delete an earlier run in the folder.")
    skip_bad_records: bool = _data(False, "Leave records out that cannot be used.")
    push_to_hub: bool = _output(False, "Upload the model when it is done.")
    hub_model_id: str | None = _output(None, "Its name on the hub, by default the folder's.")
    hub_token: str | None = _output(None, "Access token of the hub.")

    def __post_init__(self) -> None:
        for name, value in self._values():
            if typing.get_origin(self._type(name)) is list:
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
        check_count("lora_r", self.lora_r, 1)
        self._check_range("lora_dropout", 0.0, 1.0)
        check_count("seed", self.seed, 0)
        if self.max_steps < 1 and not 0 < self.num_train_epochs < math.inf:
            raise InvalidInputError("Pass max_steps or num_train_epochs, above 0 and finite.")

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
        is_good = is_good and (math.isfinite(value) or name in _INFINITE)
        if not is_good:
            until = "" if most is None else f" and {'below' if below else 'at most'} {most:g}"
            until = until or ("" if name in _INFINITE else " and finite")
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

    @classmethod
    def read(cls, path: str) -> dict[str, Any]:
        """Return the values in a YAML or JSON file, of arguments or flags.

        Raises InvalidInputError if it cannot be read, or does not hold names with values.
        """
        import yaml

        try:
            found = yaml.safe_load(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InvalidInputError(f"Cannot read the config file {path!r}: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise InvalidInputError(f"The config file {path!r} must hold names with values.")
        return {name.replace("-", "_"): _number(value) for name, value in found.items()}


def _number(value: Any) -> Any:
    """Return a value of a YAML file, which takes 1e-4 for a string."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        return float(value)
    return value


@dataclass(kw_only=True)
class LMArguments(TrainingArguments):
    """What training a language model takes besides."""

    dataset_name: str | None = _data(None, "A data set of the hub, or of a folder, by its name.")
    dataset_config_name: str | None = _data(None, "Which of its configurations.")
    streaming: bool = _data(False, "Read the data while training, in its order, not before.")
    text_column: str = _data("text", "The field or column of the text.")
    config_overrides: str | None = _model(
        None, "Train a new model of this shape, such as n_layer=2,n_embd=64,n_head=4."
    )
    block_size: int | None = _data(
        None, "Tokens of a row; by default what the model can read, at most 1,024."
    )
    packing: bool = _data(
        True, "Join documents by the end-of-text token and cut rows; else one document a row."
    )
    validation_split_percentage: int = _data(
        0, "Share of the training data to evaluate with, if there is no validation file."
    )
    sample_prompt: str | None = _output(
        None, "At each evaluation show how the model continues this."
    )
    tokens_dir: str | None = _data(
        None, "Folder for the tokens of the data; by default tokens in the output folder."
    )
    preprocessing_num_workers: int | None = _data(
        None, "Processes that tokenize; by default one for each core."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("block_size", self.block_size, 2)
        check_count("preprocessing_num_workers", self.preprocessing_num_workers, 1)
        self._check_range("validation_split_percentage", 0, 99)
        if self.config_overrides is not None and self.model_name_or_path is not None:
            raise InvalidInputError(
                "Pass model_name_or_path to fine-tune a model or config_overrides for a new one, "
                "not both."
            )
        if self.config_overrides is not None and self.lora_r is not None:
            raise InvalidInputError(
                "lora_r trains an adapter beside a model that there is; config_overrides makes a "
                "new one."
            )


@dataclass(kw_only=True)
class LabelledArguments(TrainingArguments):
    """What training on records with labels takes besides."""

    test_file: list[str] = _data(
        (), "Data to predict when the run is done; by default the validation data."
    )
    file_format: str | None = _data(
        None, f"{', '.join(RECORD_FORMATS)}; by default the suffix of each file tells."
    )
    label_column: str | None = _data(None, "The field or column of the label.")
    max_seq_length: int | None = _data(
        None, "Tokens of a row at most; by default what the model can read, at most 1,024."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_seq_length", self.max_seq_length, 1)
        if self.file_format is not None:
            check_choice("file_format", self.file_format, RECORD_FORMATS)


@dataclass(kw_only=True)
class ClassifyArguments(LabelledArguments):
    """What training a classifier of texts takes besides."""

    text_column: str = _data("text", "The field or column of the text.")
    text_pair_column: str | None = _data(None, "That of a second text, for pairs of texts.")
    problem_type: str | None = _data(
        None, f"{', '.join(PROBLEM_TYPES)}; by default the labels tell."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.problem_type is not None:
            check_choice("problem_type", self.problem_type, PROBLEM_TYPES)


@dataclass(kw_only=True)
class TagArguments(LabelledArguments):
    """What training a tagger of words takes besides."""

    text_column: str = _data("tokens", "The field or column of the words.")
    label_all_tokens: bool = _data(
        False, "Learn the label of a word on all of its tokens, not on the first alone."
    )


# Infinity clips nothing.
_INFINITE = ("max_grad_norm",)

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
    if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InvalidInputError(f"{name} is {value!r}; it must be {names}.")
