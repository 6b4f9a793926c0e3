"""Dropout by Keras's generators, or by counter-based bits where a step gives keys.

`gpt2x.train.dropout` says which bits.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2x.tf.checkpointing import seed_generators
from gpt2x.tf.ops import TENSORFLOW_OPS
from gpt2x.train import dropout
from gpt2x.train.engine import MicroBatch

_WORD = 0xFFFFFFFF


class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout`, which can draw as the other frameworks do.

    Attributes:
        is_keyed: whether the state of its generator is a key: the first word, and the second plus
            2**32 times the number of the first row in the micro-batch.
    """

    is_keyed = False

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop elements of [rows, ...] in training."""
        if not self.is_keyed or not training or not 0 < self.rate < 1:
            return super().call(inputs, training=training)
        mask = kept(self.seed_generator.next(), inputs, self.rate)
        return tf.where(mask, inputs / (1.0 - self.rate), tf.zeros([], inputs.dtype))


# Fused to one loop, which takes a thirtieth of the time of the single operations.
@tf.function(jit_compile=True, autograph=False)
def kept(state: tf.Tensor, x: tf.Tensor, rate: float) -> tf.Tensor:
    """Return which elements of x [rows, ...] are kept, bool [rows, ...].

    `state` int64 [2] is that of a layer's generator, as `Dropout` says.
    """
    count = tf.size(x, out_type=tf.int64)
    row = count // tf.cast(tf.shape(x)[0], tf.int64)
    elements = _high(state[1]) * row + tf.range(count)
    key = _low(state[:1]), _low(state[1:])
    words = tf.cast(_high(elements), tf.uint32), _low(elements)
    return tf.reshape(dropout.kept(TENSORFLOW_OPS, key, words, rate), tf.shape(x))


def _low(numbers: tf.Tensor) -> tf.Tensor:
    return tf.cast(numbers & tf.constant(_WORD, tf.int64), tf.uint32)


def _high(numbers: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(numbers, tf.constant(32, tf.int64))


class DropoutSeeds:
    """What the generators of a model's dropout hold in a micro-batch.

    Args:
        model: whose dropout draws.
        first: number of the first device of this process.
        devices: how many it has.
        same: draw as the other frameworks do.

    Attributes:
        variables: the states of the generators.
    """

    def __init__(self, model: Any, *, first: int, devices: int, same: bool) -> None:
        self._devices = np.arange(first, first + devices)
        generators = seed_generators(model)
        self._sites = None
        if same:
            layers = [(s, layer) for s, layer in dropout.sites(model) if layer.rate > 0]
            for _, layer in layers:
                layer.is_keyed = True
            self._sites = [site for site, _ in layers]
            generators = [layer.seed_generator for _, layer in layers]
        self.variables = [generator.state for generator in generators]

    def __call__(self, batch: MicroBatch) -> tf.Tensor:
        """Return the states, int64 [devices, generators, 2]."""
        count, devices = len(self.variables), self._devices
        if self._sites is None:
            numbers = devices[:, None] * count + np.arange(count)
            states = np.stack([np.full_like(numbers, batch.seed), numbers], axis=-1)
        else:
            parts = np.array_split(batch.inputs["labels"], len(devices))
            firsts = batch.first_row + np.cumsum([0, *map(len, parts[:-1])])
            keys = dropout.keys(batch.seed, self._sites).astype(np.int64)
            states = np.tile(keys, (len(devices), 1, 1))
            states[..., 1] += firsts[:, None] << 32
        return tf.constant(states, tf.int64)
