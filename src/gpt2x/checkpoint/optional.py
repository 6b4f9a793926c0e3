"""Libraries that a format needs and that not every installation has."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gpt2x.errors import MissingBackendError


def require(module: str, wanted_for: str, extra: str = "convert") -> Any:
    """Import a library of one of the extras; raises MissingBackendError naming the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingBackendError(
            f"{wanted_for} needs the library {module} ({error}). "
            f'Install it with: pip install "gpt2x[{extra}]"'
        ) from error
