"""Each activation function against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpt2x.config import model_fields as config_fields
from gpt2x.pt.activations import ACTIVATIONS

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


def test_every_name_that_a_config_may_hold_is_there():
    assert sorted(ACTIVATIONS) == sorted(config_fields.ACTIVATIONS) == sorted(EXPECTED)


@pytest.mark.parametrize("name", config_fields.ACTIVATIONS)
def test_formula(name: str):
    ours = ACTIVATIONS[name](torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(ours, EXPECTED[name], rtol=1e-5, atol=2e-6)
