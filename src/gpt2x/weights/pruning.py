"""Checkpoints whose attention heads were pruned, as transformers 4 can.

The weights of such a checkpoint are narrower than the config's other numbers say, and its config
lists what is gone in `pruned_heads`. The heads are restored here with weights of zero: they add
nothing to any output, nor do gradients move them, so the model computes what the pruned one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gpt2x.weights.lazy import LazyTensor

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config


def restore_heads(
    tensors: Mapping[str, LazyTensor], config: GPT2Config
) -> Mapping[str, LazyTensor]:
    """Return those tensors that pruning has changed, of their full shapes, zero where pruned.

    A tensor that has its full shape already keeps it; one of any other shape is left out, for the
    caller to find that it does not fit.

    Args:
        tensors: canonical name -> tensor.
        config: the model's, with `pruned_heads`: layer -> heads.
    """
    restored = {}
    for layer, heads in config.pruned_heads.items():
        gone = len(set(heads)) * config.n_embd // config.n_head
        for name, axis, parts in _PLACES:
            name = f"h.{layer}.attn.{name}"
            tensor, whole = tensors.get(name), parts * config.n_embd
            if tensor is None or len(tensor.shape) <= axis:
                continue
            if tensor.shape[axis] in (whole - parts * gone, whole):
                shape = (*tensor.shape[:axis], whole, *tensor.shape[axis + 1 :])
                sizes = (config.n_embd, config.n_head, parts)
                change = partial(_with_zeros, heads=heads, sizes=sizes, axis=axis)
                restored[name] = tensor.mapped(shape, change)
    return restored


# What pruning narrows: name, axis, and how many times the heads come there (query, key, value).
_PLACES = (("c_attn.weight", 1, 3), ("c_attn.bias", 0, 3), ("c_proj.weight", 0, 1))


def _with_zeros(
    array: np.ndarray, heads: list[int], sizes: tuple[int, int, int], axis: int
) -> np.ndarray:
    # The mask is made only here: until a tensor has turned out to fit, the sizes are but numbers.
    width, n_head, parts = sizes
    kept = np.tile(np.repeat(~np.isin(np.arange(n_head), heads), width // n_head), parts)
    whole = np.zeros((*array.shape[:axis], kept.size, *array.shape[axis + 1 :]), array.dtype)
    place = (slice(None),) * axis + (kept,)
    whole[place] = array if array.shape[axis] < kept.size else array[place]
    return whole
