"""The activation functions that a config can name, on TensorFlow tensors.

Each takes and returns a tensor of any shape and floating dtype. Formulas: `ACT2FN` of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

Activation = Callable[[tf.Tensor], tf.Tensor]


def gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU with the error function (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return tf.nn.gelu(x, approximate=False)


def gelu_new(x: tf.Tensor) -> tf.Tensor:
    """GELU approximated with tanh: the one that OpenAI trained GPT-2 with."""
    # Written out, since XLA and the plain graph then round alike; x * x * x, since pow is slower.
    return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))


def gelu_10(x: tf.Tensor) -> tf.Tensor:
    """GELU clipped to [-10, 10] (arXiv:2004.09602)."""
    return tf.clip_by_value(gelu(x), -10.0, 10.0)


def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU approximated with a sigmoid."""
    return x * tf.sigmoid(1.702 * x)


def laplace(x: tf.Tensor) -> tf.Tensor:
    """The attention activation of MEGA (arXiv:2209.10655)."""
    return 0.5 * (1.0 + tf.math.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """ReLU with slope 0.01 below zero, PyTorch's default (TensorFlow's is 0.2)."""
    return tf.nn.leaky_relu(x, alpha=0.01)


def mish(x: tf.Tensor) -> tf.Tensor:
    """Self-regularised activation (arXiv:1908.08681)."""
    return x * tf.tanh(tf.math.softplus(x))


def relu2(x: tf.Tensor) -> tf.Tensor:
    """Squared ReLU (arXiv:2109.08668)."""
    return tf.square(tf.nn.relu(x))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_new,
    "gelu_fast": gelu_new,
    "gelu_new": gelu_new,
    "gelu_python": gelu,
    "gelu_python_tanh": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "laplace": laplace,
    "leaky_relu": leaky_relu,
    "linear": tf.identity,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": tf.nn.relu,
    "relu2": relu2,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}
