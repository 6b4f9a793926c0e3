"""The activation functions of JAX, held to their formulas."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gpt2x.flax.activations import ACTIVATIONS
from support.contract.activations import ActivationsContract


class TestActivations(ActivationsContract):
    activations = ACTIVATIONS

    def array(self, values: np.ndarray) -> Any:
        return jnp.asarray(values, jnp.float32)
