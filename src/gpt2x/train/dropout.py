"""Dropout as a function of a seed, a place in the model and an element: the same in each framework.

A place has a path of numbers, which `sites` gives. Its key, two 32-bit words, is the seed folded
with these numbers one after another; an element is kept or dropped by its number i in row-major
order, with the micro-batch's rows first, whatever the layout in memory:

    key           = (seed high, seed low)
    key           = threefry(key, (0, number))                   for each number of the path
    first, second = threefry(key, (i high, i low))
    kept          = (first ^ second) >> 9 < (1 - rate) * 2**23   with 1 - rate in float32

What is kept is divided by 1 - rate. `gpt2x.generation.random` has threefry. This is how JAX draws
(`jax.random.fold_in` and `bernoulli`, with keys of the kind threefry2x32), so Flax has its own
function for it. Devices and processes that divide the rows of a micro-batch draw what one device
draws: each knows the number of its first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.random import split_seed, threefry2x32

#: The path of a place where dropout happens.
Site = tuple[int, ...]
Words = tuple[Array, Array]

#: Number of a head; blocks have the numbers from 0 on, and the embeddings that behind the last.
HEAD = 2**31

_OF_ATTENTION = {
    "attn_dropout": 0,
    "resid_dropout": 1,
    "c_attn.lora.dropout": 2,
    "c_proj.lora.dropout": 3,
    "q_attn.lora.dropout": 4,
}
# Attributes of a block and of a model -> numbers behind those of the block and the head.
_OF_BLOCK: dict[str, Site] = {
    **{f"attn.{name}": (0, number) for name, number in _OF_ATTENTION.items()},
    **{f"crossattention.{name}": (1, number) for name, number in _OF_ATTENTION.items()},
    "mlp.dropout": (2,),
    "mlp.c_fc.lora.dropout": (2, 0),
    "mlp.c_proj.lora.dropout": (2, 1),
}
_OF_HEAD: dict[str, Site] = {
    "dropout": (),
    "multiple_choice_head.first_dropout": (0,),
    "multiple_choice_head.last_dropout": (1,),
}


def sites(model: Any) -> Iterator[tuple[Site, Any]]:
    """Yield path and layer of each dropout of a PyTorch or TensorFlow model."""
    body = getattr(model, "transformer", model)
    for layer, block in enumerate(body.h):
        yield from _present(block, _OF_BLOCK, (layer,))
    yield (len(body.h),), body.drop
    if body is not model:
        yield from _present(model, _OF_HEAD, (HEAD,))


def _present(owner: Any, paths: dict[str, Site], before: Site) -> Iterator[tuple[Site, Any]]:
    for path, site in paths.items():
        found = owner
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            yield before + site, found


def keys(seed: int, places: Sequence[Site]) -> np.ndarray:
    """Return the key of each place, uint32 [places, 2], of a seed from 0 to 2**64 - 1."""
    low, high = split_seed(seed)
    found = np.tile(np.array([high, low], np.uint32), (len(places), 1))
    for depth in range(max(map(len, places), default=0)):
        deep = [index for index, site in enumerate(places) if len(site) > depth]
        numbers = np.array([places[index][depth] for index in deep], np.uint32)
        key = found[deep, 0], found[deep, 1]
        words = threefry2x32(NUMPY_OPS, key, (np.zeros_like(numbers), numbers))
        found[deep] = np.stack(words, axis=-1)
    return found


def kept(ops: Ops, key: Words, elements: Words, rate: float) -> Array:
    """Return which elements are kept, bool.

    Args:
        ops: of the framework.
        key: of the place, words [1], twice.
        elements: the high and the low words of their numbers, which broadcast together.
        rate: of those that are dropped, from 0 to 1.
    """
    first, second = threefry2x32(ops, key, elements)
    upper, lower = ops.word_halves(ops.shift_right(first ^ second, 9))
    # The sum has 23 bits, and is exact.
    return upper * 65536.0 + lower < float(np.float32(1.0 - rate)) * 2.0**23
