"""Checkpoint files of every format, as named tensors that are read one at a time.

>>> from gpt2x.checkpoint import convert, open_checkpoint
>>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
...     embedding = checkpoint["wte.weight"].read()
>>> convert("ckpt.pt", "new-folder")  # doctest: +SKIP

`open_checkpoint` opens the weights at a path; `open_source` opens a path or a model of the hub,
with its config and tokenizer; `open_adapter` opens a LoRA adapter.

Each format is one module of `gpt2x.formats`. Only two formats, which a framework's own library
writes, need a framework.
"""

from gpt2x.checkpoint.adapter import open_adapter
from gpt2x.checkpoint.conversion import convert
from gpt2x.checkpoint.source import describe, open_source
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.opening import open_checkpoint
from gpt2x.formats.registry import read_formats
from gpt2x.weights.lazy import LazyTensor

#: The names of the formats that `open_checkpoint` reads.
FORMATS = read_formats()

__all__ = [
    "FORMATS",
    "Checkpoint",
    "LazyTensor",
    "open_checkpoint",
    "open_source",
    "open_adapter",
    "describe",
    "convert",
]
