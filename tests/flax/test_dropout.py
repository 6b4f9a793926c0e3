"""Dropout by counter-based bits in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.flax.dropout import dropout, subkey
from support.dropout import mask

SEED, SITE = 2**50 + 3, (1, 0, 1)


@pytest.mark.parametrize("bits", [32, 64])
def test_masks_are_those_of_the_core(bits):
    words = np.array([SEED >> 32, SEED & 0xFFFFFFFF], np.uint32)
    with jax.enable_x64(bits == 64):
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        for number in SITE:
            key = subkey(key, number)
        found = dropout(jnp.ones((3, 5, 7), jnp.float32), rate=0.3, key=key)
    expected = mask((3, 5, 7), 0.3, SEED, SITE) / np.float32(1 - 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
