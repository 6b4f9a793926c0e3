"""The exceptions of gpt2x, and the wording that its messages share.

Each derives from the built-in exception that transformers raises in its place, so that code for
transformers catches it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InvalidInputError(ValueError):
    """An argument, option or input array that cannot be used."""


class CheckpointError(OSError):
    """A checkpoint that is missing, incomplete, corrupt or refused."""


class WeightsError(RuntimeError):
    """Weights that are readable but do not fit the model."""


class DataError(ValueError):
    """A record or file of training data that cannot be used."""


class TrainingError(RuntimeError):
    """Training that cannot go on."""


class MissingBackendError(ImportError):
    """A framework, or a library of an extra, that is not installed."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the allowed name nearest to `name`, or an empty string."""
    nearest = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def unknown_arguments(where: str, names: Iterable[str], allowed: Iterable[str]) -> str:
    """Return the message for arguments that `where` does not have, with the nearest that it has.

    >>> unknown_arguments("generate", ["temprature"], ["temperature", "top_k"])
    "generate() got an unknown argument 'temprature'. Did you mean 'temperature'?"
    """
    names, allowed = sorted(names), list(allowed)
    if len(names) == 1:
        return f"{where}() got an unknown argument {names[0]!r}.{did_you_mean(names[0], allowed)}"
    listed = " ".join(f"{name!r}.{did_you_mean(name, allowed)}" for name in names)
    return f"{where}() got {len(names)} unknown arguments: {listed}"


def check_choice(what: str, value: object, allowed: Iterable[str]) -> None:
    """Raise InvalidInputError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        listed = ", ".join(repr(choice) for choice in allowed)
        raise InvalidInputError(f"{what} is {value!r}; allowed are {listed}.{hint}")


def check_count(what: str, value: object, least: int = 0) -> None:
    """Raise InvalidInputError unless `value` is None or an integer of at least `least`."""
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise InvalidInputError(f"{what} is {value!r}; it must be an integer of at least {least}.")


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Join names with commas; of many, only the first `limit`."""
    names = list(names)
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])
