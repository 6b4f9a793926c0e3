"""Folded buffers hold what plain ones hold."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.flax.cpu import folding

B, H, S, D = 2, 3, 5, 4
PLAIN = jnp.arange(B * H * S * D, dtype=jnp.float32).reshape(B, H, S, D)


def test_few_rows_are_folded_and_unfolded():
    (buffer, other), heads = folding.folded([PLAIN, PLAIN + 1])
    assert (buffer.shape, other.shape, heads) == ((B * H, S, D), (B * H, S, D), H)
    assert folding.unfolded_shape(buffer.shape, heads) == PLAIN.shape
    np.testing.assert_array_equal(folding.unfolded(buffer, heads), PLAIN)


def test_many_rows_and_empty_caches_stay_as_they_are():
    many = jnp.zeros((17, H, S, D))
    for buffers in ([many], [None, None]):
        kept, heads = folding.folded(buffers)
        assert kept[0] is buffers[0]
        assert heads is None
        assert folding.unfolded(kept[0], heads) is buffers[0]


@pytest.mark.parametrize("length", [None, 2])
def test_both_ranks_are_written_and_reordered_alike(length):
    (buffer,), heads = folding.folded([PLAIN])
    new = -jnp.ones((B, H, 1, D))
    at = None if length is None else jnp.int32(length)
    written = folding.written(PLAIN, new, at)
    assert (np.asarray(written)[:, :, S if length is None else length] == -1).all()
    np.testing.assert_array_equal(
        folding.unfolded(folding.written(buffer, new, at), heads), written
    )
    rows = jnp.array([1, 1, 0])
    taken = folding.take_rows(buffer, rows, heads)
    assert taken.shape == (3 * H, S, D)
    np.testing.assert_array_equal(folding.unfolded(taken, heads), PLAIN[rows])
