"""Dropout with explicit keys: nothing in a module changes, so models stay pure functions.

With JAX's defaults (keys of the kind threefry2x32, partitionable) this draws what
`gpt2x.train.dropout` defines.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def dropout(x: Array, *, rate: float, key: Array | None) -> Array:
    """Set each element to zero with probability `rate` and scale the others up by 1 / (1 - rate).

    Without a key, or at rate 0, x is returned.
    """
    if key is None or rate == 0.0:
        return x
    if rate == 1.0:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(key, np.float32(1.0 - rate), x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)


def subkey(key: Array | None, number: int) -> Array | None:
    """Return the key of part `number`, or None without a key."""
    return None if key is None else jax.random.fold_in(key, number)
