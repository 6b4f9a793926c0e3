"""Running a TensorFlow model on arrays of the host, for the pipelines.

B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError


def place(model: Any, device: Any) -> Any:
    """Return the model: TensorFlow has placed it. Raise if `device` is another place."""
    has_accelerator = bool(tf.config.list_physical_devices("GPU"))
    if device not in (None, 0, *(() if has_accelerator else (-1, "cpu"))):
        raise InvalidInputError(
            f"device is {device!r}, but TensorFlow places a model when it is made: load the model "
            "in `with tf.device(...)`, and pass it without device=."
        )
    return model


def width(tokens: int, limit: int) -> int:
    """Return how many columns a batch gets whose longest row has `tokens`: those."""
    return tokens


def to_device(model: Any, array: np.ndarray) -> tf.Tensor:
    """Return an array as an input of the model."""
    return tf.constant(array, tf.int32)


def forward(model: Any, inputs: Mapping[str, np.ndarray], **options: Any) -> Any:
    """Return the model's output for inputs int [B, T] and options, without dropout."""
    tensors = {name: to_device(model, array) for name, array in inputs.items()}
    return model(**tensors, **options, return_dict=True, training=False)


def to_host(array: tf.Tensor) -> np.ndarray:
    """Return an array of the model as numpy's, half precision as float32."""
    is_half = array.dtype.is_floating and array.dtype.size == 2
    return (tf.cast(array, tf.float32) if is_half else array).numpy()
