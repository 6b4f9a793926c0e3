"""Training and fine-tuning: one loop over a small engine for each framework."""

from __future__ import annotations

from typing import Any

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    # Lazily: the command line asks this package for its flags alone.
    if name == "train":
        from gpt2x.train.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
