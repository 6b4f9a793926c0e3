"""Checkpoints whose attention heads were pruned."""

from __future__ import annotations

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.pruning import restore_heads

CONFIG = GPT2Config(n_embd=6, n_head=3, n_layer=3, pruned_heads={0: [1], 2: [0, 1, 2]})
KEPT = [0, 1, 4, 5]  # of 3 heads of width 2, where the second is pruned


def whole() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0)
    shapes = {"c_attn.weight": (6, 18), "c_attn.bias": (18,), "c_proj.weight": (6, 6)}
    return {
        f"h.{layer}.attn.{name}": numbers.normal(size=shape).astype(np.float16)
        for layer in range(3)
        for name, shape in shapes.items()
    }


def restored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = restore_heads({name: LazyTensor.of(array) for name, array in arrays.items()}, CONFIG)
    return {name: tensor.read() for name, tensor in found.items()}


def test_pruned_heads_come_back_as_zeros():
    arrays = whole()
    kept = np.concatenate([np.array(KEPT) + part for part in (0, 6, 12)])
    pruned = {
        **arrays,
        "h.0.attn.c_attn.weight": arrays["h.0.attn.c_attn.weight"][:, kept],
        "h.0.attn.c_attn.bias": arrays["h.0.attn.c_attn.bias"][kept],
        "h.0.attn.c_proj.weight": arrays["h.0.attn.c_proj.weight"][KEPT],
        "h.2.attn.c_attn.weight": np.zeros((6, 0), np.float16),
        "h.2.attn.c_attn.bias": np.zeros(0, np.float16),
        "h.2.attn.c_proj.weight": np.zeros((0, 6), np.float16),
    }
    found = restored(pruned)
    assert not any(name.startswith("h.1.") for name in found)
    weight = found["h.0.attn.c_attn.weight"]
    assert weight.dtype == np.float16
    np.testing.assert_array_equal(weight[:, kept], pruned["h.0.attn.c_attn.weight"])
    assert not np.delete(weight, kept, axis=1).any()
    proj = found["h.0.attn.c_proj.weight"]
    np.testing.assert_array_equal(proj[KEPT], pruned["h.0.attn.c_proj.weight"])
    assert not proj[[2, 3]].any()
    assert {array.shape for name, array in found.items() if name.startswith("h.2.")} == {
        (6, 18),
        (18,),
        (6, 6),
    }
    # Heads that are there all the same are silenced, and doing it twice changes nothing.
    for again in (restored({**arrays, **found}), restored(arrays)):
        np.testing.assert_array_equal(again["h.0.attn.c_attn.weight"], weight)


def test_what_does_not_fit_is_left_to_the_caller():
    arrays = {"h.0.attn.c_attn.weight": np.zeros((6, 17)), "h.0.attn.c_attn.bias": np.zeros(())}
    assert restored(arrays) == {}
