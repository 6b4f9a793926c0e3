"""Checkpoint files of every format, as named tensors that are read one at a time.

>>> from gpt2x.checkpoint import convert, open_checkpoint
>>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
...     embedding = checkpoint["wte.weight"].read()
>>> convert("ckpt.pt", "new-folder")  # doctest: +SKIP

One module per format reads (and writes) its files; no framework is needed for any of them but the
two that a framework's own library writes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt2x.formats.base import Checkpoint
from gpt2x.formats.known import MODULES
from gpt2x.formats.opening import open_checkpoint
from gpt2x.weights.lazy import LazyTensor

if TYPE_CHECKING:
    from gpt2x.checkpoint.conversion import convert
    from gpt2x.checkpoint.source import describe, open_source

#: The names of the formats that `open_checkpoint` reads.
FORMATS = tuple(MODULES)

__all__ = [
    "FORMATS",
    "Checkpoint",
    "LazyTensor",
    "open_checkpoint",
    "open_source",
    "describe",
    "convert",
]

# Imported when asked for: these know of configs, which know of checkpoints.
_LATER = {"open_source": "source", "describe": "source", "convert": "conversion"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"gpt2x.checkpoint.{_LATER[name]}"), name)
