"""Attention in TensorFlow, held to what every backend does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.tf.attention import (
    causal_mask,
    eager_attention,
    packed_mask,
    padding_mask,
    raise_hidden_rows,
    score_dtype,
    self_attention_mask,
)
from support.contract.attention import AttentionContract
from support.tf_models import BACKEND


class TestAttention(AttentionContract):
    backend = BACKEND


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", tf.float32), ("bfloat16", tf.float32), ("float64", tf.float64)],
)
def test_masks_are_float32_or_wider(dtype: str, expected: tf.DType):
    wide = score_dtype(dtype)
    assert wide == expected
    lowest = wide.min
    future = causal_mask(2, 3, 1, wide)
    assert future.dtype == wide
    np.testing.assert_array_equal(future, [[0, 0, lowest], [0, 0, 0]])
    padded = padding_mask(tf.constant([[0, 1]]), wide)
    np.testing.assert_array_equal(padded, [[[[lowest / 2, 0]]]])
    raised = raise_hidden_rows(tf.stack([padded[0, 0, 0], [lowest / 2, lowest / 2]]))
    np.testing.assert_array_equal(raised, [[lowest / 2, 0], [0, 0]])
    packed = packed_mask(tf.constant([[0, 1, 0]]), wide)
    expected_rows = [[0, lowest, lowest], [0, 0, lowest], [lowest, lowest, 0]]
    np.testing.assert_array_equal(packed[0, 0], expected_rows)


def test_room_behind_the_tokens_is_hidden():
    mask = self_attention_mask(tf.constant([[0, 1]]), 1, 4, tf.constant(1), tf.float32)
    hidden = mask[0, 0, 0].numpy() < -1e30
    np.testing.assert_array_equal(hidden, [True, False, True, True])


def test_float64_scores_stay_float64():
    generator = np.random.default_rng(0)
    query, key, value = (tf.constant(generator.normal(size=(1, 2, 3, 4))) for _ in range(3))
    mask = causal_mask(3, 3, 0, tf.float64)
    out, weights = eager_attention(query, key, value, mask, scaling=0.5, dropout=tf.identity)
    scores = np.tril(np.ones((3, 3))) * np.exp(query.numpy() @ key.numpy().swapaxes(2, 3) * 0.5)
    exact = scores / scores.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, exact, rtol=1e-13)
    np.testing.assert_allclose(out, exact @ value.numpy(), rtol=1e-12)
