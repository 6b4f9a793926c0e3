"""The activation functions of TensorFlow, held to their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.tf.activations import ACTIVATIONS
from support.contract.activations import ActivationsContract


class TestActivations(ActivationsContract):
    activations = ACTIVATIONS

    def array(self, values: np.ndarray) -> Any:
        return tf.constant(values, tf.float32)
