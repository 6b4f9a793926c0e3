"""What must stay as it was when a run goes on from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.train.arguments import TrainingArguments

#: The setting that stands for the content of the training data.
DATA = "data"

# Arguments that say what is trained. A run that goes on has these in its checkpoint, so that they
# may also be left out.
_ORIGIN = ("model_name_or_path", "tokenizer_name", "config_overrides")

# Those of an adapter, whose checkpoint does not hold its model.
_ADAPTER = ("lora_r", "lora_alpha", "lora_dropout", "lora_target")


def origin(task: str, arguments: TrainingArguments) -> dict[str, Any]:
    """Return what the arguments say of the model: settings of the run."""
    given = {name: getattr(arguments, name, None) for name in _ORIGIN}
    found = {"task": task, **{name: _normal(value) for name, value in given.items()}}
    names = _ADAPTER if arguments.lora_r is not None else ("lora_r",)
    return {**found, **{name: getattr(arguments, name) for name in names}}


def _normal(value: str | None) -> str | None:
    """Return a name or overrides as they compare: folders whole, fields in order."""
    if value is None:
        return None
    if os.path.isdir(os.path.expanduser(value)):
        return os.path.realpath(os.path.expanduser(value))
    return ",".join(sorted(part.strip() for part in value.split(",")))


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if a run would go on with another model, or other data or rows.

    Args:
        before: the settings of the checkpoint.
        now: those of the run that goes on, or some of them.
    """
    is_adapter = before.get("lora_r") is not None
    changed = [
        _difference(name, before[name], now[name])
        for name in before
        if name in now and before[name] != now[name]
        # A whole model is in the checkpoint, and need not be named.
        if is_adapter or name not in _ORIGIN or now[name] is not None
    ]
    if changed:
        raise InvalidInputError(
            f"The run cannot go on as it began: {'; '.join(changed)}. Pass what it began with, or "
            "begin another run: in another output_dir, with the checkpoint's folder as "
            "model_name_or_path, or with overwrite_output_dir."
        )


def _difference(name: str, before: Any, now: Any) -> str:
    if name == DATA:
        return "the training data is not the same"
    was, is_ = ("not given" if value is None else repr(value) for value in (before, now))
    return f"{name} was {was} and is {is_}"


def check_steps(done: int, asked: int, name: str) -> None:
    """Raise InvalidInputError if a run has made more steps than it is asked for.

    Args:
        done: steps of the checkpoint.
        asked: steps of the run in all.
        name: of the argument that asks for them.
    """
    if done > asked:
        raise InvalidInputError(
            f"The checkpoint is at step {done}, and {name} asks for {asked} in all. Ask for "
            f"{done} or more to go on, or pass overwrite_output_dir to start over."
        )
