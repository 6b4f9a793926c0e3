"""Training and fine-tuning: one loop over a small engine for each framework."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["DataCollatorForLanguageModeling", "train"]

_MODULES = {"train": "run", "DataCollatorForLanguageModeling": "collator"}


def __getattr__(name: str) -> Any:
    # Lazily: the command line asks this package for its flags alone.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
