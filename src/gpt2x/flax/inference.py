"""Running a Flax model on arrays of the host, for the pipelines.

B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2x.errors import InvalidInputError
from gpt2x.generation.lengths import bucket


def place(model: Any, device: Any) -> Any:
    """Return the model: JAX has placed it. Raise if `device` is another place."""
    has_accelerator = jax.default_backend() != "cpu"
    if device not in (None, 0, *(() if has_accelerator else (-1, "cpu"))):
        raise InvalidInputError(
            f"device is {device!r}, but JAX places a model when it is made: load the model in "
            "`with jax.default_device(...)`, and pass it without device=."
        )
    return model


def width(tokens: int, limit: int) -> int:
    """Return how many columns a batch gets whose longest row has `tokens`.

    Few widths, since the model is compiled for each: powers of two, at most `limit`.
    """
    return bucket(tokens, max(tokens, limit))


def to_device(model: Any, array: np.ndarray) -> Array:
    """Return an array as an input of the model."""
    return jnp.asarray(array, jnp.int32)


def forward(model: Any, inputs: Mapping[str, np.ndarray], **options: Any) -> Any:
    """Return the model's output for inputs int [B, T] and options, without dropout."""
    arrays = {name: to_device(model, array) for name, array in inputs.items()}
    return model(**arrays, **options, return_dict=True, train=False)


def to_host(array: Array) -> np.ndarray:
    """Return an array of the model as numpy's, half precision as float32."""
    is_half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize == 2
    return np.asarray(array.astype(jnp.float32) if is_half else array)
