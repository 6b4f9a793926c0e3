"""Checkpoint files of every format, as named tensors that are read one at a time.

>>> from gpt2x.checkpoint import open_checkpoint
>>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
...     embedding = checkpoint["wte.weight"].read()

One module per format reads (and writes) its files; no framework is needed for any of them.
"""

from gpt2x.checkpoint.base import Checkpoint, LazyTensor
from gpt2x.checkpoint.formats import MODULES
from gpt2x.checkpoint.opening import open_checkpoint

#: The names of the formats that `open_checkpoint` reads.
FORMATS = tuple(MODULES)

__all__ = ["FORMATS", "Checkpoint", "LazyTensor", "open_checkpoint"]
