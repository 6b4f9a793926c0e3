"""The loss of a language model in pieces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.flax.fused_loss import linear_cross_entropy
from gpt2x.flax.heads import causal_lm_loss


@pytest.mark.parametrize("count", [1, 255, 600])
def test_the_fused_loss_is_that_of_all_logits(count):
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(count, 8)), rng.normal(size=(50, 8))
    hidden, weight = jnp.asarray(hidden, jnp.float32), jnp.asarray(weight, jnp.float32)
    targets = rng.integers(50, size=count)
    targets[1::3] = -100

    def expected(hidden, weight):
        return 3 * causal_lm_loss(hidden @ weight.T, targets, shift_labels=jnp.asarray(targets))

    def found(hidden, weight):
        return 3 * linear_cross_entropy(hidden, weight, jnp.asarray(targets))

    ways = [jax.value_and_grad(way, (0, 1))(hidden, weight) for way in (expected, found)]
    np.testing.assert_allclose(ways[1][0], ways[0][0], rtol=1e-5)
    assert found(hidden, weight) == pytest.approx(float(ways[0][0]), rel=1e-5)
    for gradient, other in zip(ways[1][1], ways[0][1], strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-6)


def test_the_logits_of_a_whole_batch_are_never_there():
    hidden, weight = jnp.ones((600, 8)), jnp.ones((50, 8))
    targets = jnp.zeros(600, jnp.int32)
    steps = jax.make_jaxpr(jax.value_and_grad(linear_cross_entropy, (0, 1)))
    text = str(steps(hidden, weight, targets))
    assert "f32[256,50]" in text
    assert "f32[600,50]" not in text
    assert "f32[768,50]" not in text
