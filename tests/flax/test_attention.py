"""Attention in Flax, held to what every backend does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.flax.attention import (
    causal_mask,
    eager_attention,
    packed_mask,
    padding_mask,
    raise_hidden_rows,
    score_dtype,
    sdpa_attention,
    self_attention_mask,
)
from support.contract.attention import AttentionContract
from support.flax_models import BACKEND


class TestAttention(AttentionContract):
    backend = BACKEND


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")],
)
def test_masks_are_float32_or_wider(dtype: str, expected: str):
    with jax.enable_x64(True):
        wide = score_dtype(dtype)
        assert wide == expected
        lowest = float(jnp.finfo(wide).min)
        future = causal_mask(2, 3, 1, wide)
        assert future.dtype == wide
        np.testing.assert_array_equal(future, [[0, 0, lowest], [0, 0, 0]])
        padded = padding_mask(jnp.array([[0, 1]]), wide)
        np.testing.assert_array_equal(padded, [[[[lowest / 2, 0]]]])
        raised = raise_hidden_rows(jnp.array([[lowest / 2, 0], [lowest / 2, lowest / 2]], wide))
        np.testing.assert_array_equal(raised, [[lowest / 2, 0], [0, 0]])
        packed = packed_mask(jnp.array([[0, 1, 0]]), wide)
        expected_rows = [[0, lowest, lowest], [0, 0, lowest], [lowest, lowest, 0]]
        np.testing.assert_array_equal(packed[0, 0], expected_rows)


def test_room_behind_the_tokens_is_hidden():
    mask = self_attention_mask(jnp.array([[0, 1]]), 1, 4, jnp.array(1), jnp.float32)
    assert mask is not None
    np.testing.assert_array_equal(mask[0, 0, 0] < -1e30, [True, False, True, True])


@pytest.mark.parametrize("T", [1, 3])
def test_float64_scores_stay_float64(T: int):
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(1, 2, length, 4)) for length in (T, 3, 3)]
    with jax.enable_x64(True):
        query, key, value = map(jnp.asarray, arrays)
        mask = causal_mask(T, 3, 3 - T, jnp.float64)
        out, weights = eager_attention(query, key, value, mask, scaling=0.5)
        fused = sdpa_attention(query, key, value, mask[None, None], scaling=0.5)
    scores = np.tril(np.ones((3, 3)))[-T:] * np.exp(arrays[0] @ arrays[1].swapaxes(2, 3) * 0.5)
    exact = scores / scores.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, exact, rtol=1e-13)
    np.testing.assert_allclose(out, exact @ arrays[2], rtol=1e-12)
    np.testing.assert_allclose(fused, exact @ arrays[2], rtol=1e-6)
