"""Checkpoints whose attention heads were pruned, as transformers 4 can.

The weights of such a checkpoint are narrower than the other fields of its config say, and
`pruned_heads` lists the missing heads. Here these heads are restored with weights of zero. They add
nothing to the output and get no gradients, so the model computes the same as the pruned one.
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
    """Return the tensors that pruning has changed, in full shape, with zeros for pruned heads.

    Tensors that have their full shape are not changed. Tensors of any other shape are not returned;
    the caller finds that they do not fit.

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


# The parameters that pruning narrows: name, axis, and how often the heads occur there (q, k, v).
_PLACES = (("c_attn.weight", 1, 3), ("c_attn.bias", 0, 3), ("c_proj.weight", 0, 1))


def _with_zeros(
    array: np.ndarray, heads: list[int], sizes: tuple[int, int, int], axis: int
) -> np.ndarray:
    # The mask is made only now: before a tensor is known to fit, sizes are only numbers in a file.
    width, n_head, parts = sizes
    kept = np.tile(np.repeat(~np.isin(np.arange(n_head), heads), width // n_head), parts)
    whole = np.zeros((*array.shape[:axis], kept.size, *array.shape[axis + 1 :]), array.dtype)
    place = (slice(None),) * axis + (kept,)
    whole[place] = array if array.shape[axis] < kept.size else array[place]
    return whole
