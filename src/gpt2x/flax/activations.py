"""The activation functions that a config can name, on JAX arrays.

Each takes and returns an array of any shape and floating dtype. Formulas: `ACT2FN` of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

# The approximation of the GELU paper (arXiv:1606.08415) with which GPT-2 was trained; the names
# below that share it differ in transformers only by how they round.
_gelu_tanh = partial(jax.nn.gelu, approximate=True)
_gelu = partial(jax.nn.gelu, approximate=False)


def _linear(x: Array) -> Array:
    return x


def _gelu_10(x: Array) -> Array:
    return jnp.clip(_gelu(x), -10, 10)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _relu2(x: Array) -> Array:
    return jnp.square(jax.nn.relu(x))


def _laplace(x: Array) -> Array:
    """Approximate a squared ReLU by the Laplace cumulative distribution (arXiv:2209.10655)."""
    return 0.5 * (1.0 + jax.scipy.special.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_10": _gelu_10,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "laplace": _laplace,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": _linear,
    "mish": jax.nn.mish,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "relu2": _relu2,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
