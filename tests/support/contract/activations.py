"""Each activation function of a config against its formula, in every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from gpt2x.config import model_fields

erf = np.vectorize(math.erf)
x = np.linspace(-15, 15, 301)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


GELU = 0.5 * x * (1 + erf(x / math.sqrt(2)))
GELU_TANH = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
EXPECTED = {
    "gelu": GELU,
    "gelu_10": GELU.clip(-10, 10),
    "gelu_accurate": GELU_TANH,
    "gelu_fast": GELU_TANH,
    "gelu_new": GELU_TANH,
    "gelu_python": GELU,
    "gelu_python_tanh": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "laplace": 0.5 * (1 + erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "leaky_relu": np.where(x > 0, x, 0.01 * x),
    "linear": x,
    "mish": x * np.tanh(np.log1p(np.exp(x))),
    "quick_gelu": x * sigmoid(1.702 * x),
    "relu": x.clip(0),
    "relu2": x.clip(0) ** 2,
    "relu6": x.clip(0, 6),
    "sigmoid": sigmoid(x),
    "silu": x * sigmoid(x),
    "swish": x * sigmoid(x),
    "tanh": np.tanh(x),
}


class ActivationsContract:
    """A backend's table holds every name that a config may hold, and computes its formula."""

    activations: Mapping[str, Callable[[Any], Any]]

    def array(self, values: np.ndarray) -> Any:
        """Return values as a float32 array of the framework."""
        raise NotImplementedError

    def test_every_name_that_a_config_may_hold_is_there(self):
        assert sorted(self.activations) == sorted(model_fields.ACTIVATIONS) == sorted(EXPECTED)

    @pytest.mark.parametrize("name", model_fields.ACTIVATIONS)
    def test_formula(self, name: str):
        ours = np.asarray(self.activations[name](self.array(x)))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, EXPECTED[name], rtol=1e-5, atol=2e-6)
