"""Dropout by PyTorch's generator, or by counter-based bits where a step gives keys.

`gpt2x.train.dropout` says which bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops
from gpt2x.pt.ops import torch_ops
from gpt2x.train import dropout

# Elements whose words are computed at once: on a processor, in its cache.
_PIECE, _PIECE_OF_ACCELERATOR = 2**15, 2**24


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, which draws as the other frameworks do while it has a key.

    Attributes:
        key: int64 [3] where the input is: its two words and the number of the first row. A step
            sets it; without one PyTorch's generator draws.
    """

    key: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of [rows, ...] in training."""
        if self.key is None or not is_keyed(self):
            return super().forward(input)
        if self.p == 1:
            return torch.zeros_like(input)
        mask = kept(self.key, input.shape, self.p)
        return torch.where(mask, input / (1.0 - self.p), 0.0)


def is_keyed(layer: nn.Dropout) -> bool:
    """Return whether a layer, which may be torch's own, drops elements by a key."""
    is_active = layer.training and layer.p > 0
    return is_active and isinstance(layer, Dropout) and layer.key is not None


def kept(key: Tensor, shape: Sequence[int], rate: float) -> Tensor:
    """Return which elements of rows are kept, bool of this shape [rows, ...]."""
    count, device = math.prod(shape), key.device
    if device.type == "cpu" and not torch.compiler.is_compiling():
        # numpy's words have no sign, and take half the time of torch's.
        places = np.arange(min(count, _PIECE))
        found = kept_in_pieces(NUMPY_OPS, places, key.numpy(), shape, rate)
        return torch.from_numpy(np.concatenate([*found])).view(*shape)
    places = torch.arange(min(count, _PIECE_OF_ACCELERATOR), device=device)
    return torch.cat([*kept_in_pieces(torch_ops(device), places, key, shape, rate)]).view(*shape)


def kept_in_pieces(
    ops: Ops, places: Any, key: Any, shape: Sequence[int], rate: float
) -> Iterator[Any]:
    """Yield which elements of rows are kept, in order; `places` are 0, 1, ..., length - 1."""
    words = ops.words(key[:1]), ops.words(key[1:2])
    first, count = key[2:] * math.prod(shape[1:]), math.prod(shape)
    for start in range(0, count, len(places)):
        numbers = first + (start + places[: count - start])
        yield dropout.kept(ops, words, (ops.words(numbers >> 32), ops.words(numbers)), rate)


@contextmanager
def keyed(model: Any, seed: int, first_row: int = 0) -> Iterator[None]:
    """Let the dropout of a model draw by the keys of a seed, for rows from a number on."""
    places, layers = zip(*dropout.sites(model), strict=True)
    try:
        for layer, words in zip(layers, dropout.keys(seed, places), strict=True):
            layer.key = torch.tensor([*words.tolist(), first_row], device=model.device)
        yield
    finally:
        for layer in layers:
            layer.key = None
