"""The operations of the decoding core on TensorFlow tensors: eager, in a graph, and under XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from gpt2x.generation.ops import Array, Kind, Ops, Scalar
from gpt2x.generation.registry import register_ops

State = TypeVar("State")

_DTYPES = {"bool": tf.bool, "int": tf.int32, "float": tf.float32}


def shape_of(tensor: tf.Tensor) -> tuple[int | Scalar, ...]:
    """Return the size of each axis: an int where it is known, else a scalar of the graph."""
    sizes = tuple(tensor.shape)
    if None not in sizes:
        return sizes
    dynamic = tf.shape(tensor)
    return tuple(dynamic[i] if size is None else size for i, size in enumerate(sizes))


class TensorFlowOps(Ops):
    """`Ops` on TensorFlow tensors; scalars are tensors of rank 0, so that no value is traced."""

    def constant(self, value: Any, kind: Kind) -> tf.Tensor:
        return tf.constant(value, _DTYPES[kind])

    def scalar(self, value: float | int | bool, kind: Kind) -> tf.Tensor:
        return self.cast(value, kind)

    def full(self, shape: Sequence[int | Scalar], value: Any, kind: Kind) -> tf.Tensor:
        return tf.fill(tf.stack(list(shape)), self.cast(value, kind))

    def arange(self, size: int | Scalar) -> tf.Tensor:
        return tf.range(size, dtype=tf.int32)

    def cast(self, x: Array, kind: Kind) -> tf.Tensor:
        # Not only tf.cast: it would first make a large Python number int64 or float64.
        return tf.cast(x, _DTYPES[kind]) if tf.is_tensor(x) else tf.constant(x, _DTYPES[kind])

    def cast_like(self, x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return tf.cast(x, other.dtype)

    def shape(self, x: tf.Tensor) -> tuple[int | Scalar, ...]:
        return shape_of(x)

    def reshape(self, x: tf.Tensor, shape: Sequence[int | Scalar]) -> tf.Tensor:
        return tf.reshape(x, list(shape))

    def concat(self, arrays: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
        return tf.concat(list(arrays), axis)

    def where(self, condition: Array | bool, x: Array, y: Array) -> tf.Tensor:
        if not tf.is_tensor(x):
            x = tf.cast(x, y.dtype)
        elif not tf.is_tensor(y):
            y = tf.cast(y, x.dtype)
        return tf.where(condition, x, y)

    def take(self, x: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, indices)

    def take_along(self, x: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, indices, batch_dims=1)

    def top_k(self, x: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        values, indices = tf.math.top_k(x, k)
        return values, indices

    def argmax(self, x: tf.Tensor) -> tf.Tensor:
        return tf.argmax(x, axis=-1, output_type=tf.int32)

    def write(self, x: tf.Tensor, index: int | Scalar, value: Array, axis: int) -> tf.Tensor:
        axis %= x.shape.rank
        value = tf.cast(value, x.dtype)
        if axis == 0:  # the large arrays (scores of each step) are written by row
            return tf.tensor_scatter_nd_update(x, [[index]], value[None])
        shape = [1] * x.shape.rank
        shape[axis] = -1
        here = tf.reshape(tf.range(tf.shape(x)[axis]) == index, shape)
        return tf.where(here, tf.expand_dims(value, axis), x)

    def scatter_add(self, x: tf.Tensor, columns: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
        rows = tf.broadcast_to(tf.range(tf.shape(x)[0])[:, None], tf.shape(columns))
        updates = tf.broadcast_to(tf.cast(updates, x.dtype), tf.shape(columns))
        return tf.tensor_scatter_nd_add(x, tf.stack([rows, columns], axis=-1), updates)

    exp = staticmethod(tf.exp)
    log = staticmethod(tf.math.log)
    log1p = staticmethod(tf.math.log1p)
    minimum = staticmethod(tf.minimum)
    maximum = staticmethod(tf.maximum)
    sum = staticmethod(tf.reduce_sum)
    max = staticmethod(tf.reduce_max)
    any = staticmethod(tf.reduce_any)
    all = staticmethod(tf.reduce_all)

    def log_softmax(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.log_softmax(tf.cast(x, tf.float32), axis=-1)

    def words(self, x: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(x, tf.uint32)

    def word_halves(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        upper = tf.bitcast(self.shift_right(words, 16), tf.int32)
        lower = tf.bitcast(words & tf.constant(0xFFFF, tf.uint32), tf.int32)
        return tf.cast(upper, tf.float32), tf.cast(lower, tf.float32)

    def shift_left(self, words: tf.Tensor, count: int) -> tf.Tensor:
        return tf.bitwise.left_shift(words, tf.constant(count, tf.uint32))

    def shift_right(self, words: tf.Tensor, count: int) -> tf.Tensor:
        return tf.bitwise.right_shift(words, tf.constant(count, tf.uint32))

    def float_bits(self, x: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(x, tf.int32)

    def while_loop(
        self, condition: Callable[[State], Any], body: Callable[[State], State], state: State
    ) -> State:
        (state,) = tf.while_loop(condition, lambda *s: (body(*s),), (state,))
        return state

    def to_numpy(self, x: tf.Tensor) -> np.ndarray:
        return np.asarray(x)


TENSORFLOW_OPS = TensorFlowOps()

register_ops(tf.Tensor, lambda _: TENSORFLOW_OPS)
