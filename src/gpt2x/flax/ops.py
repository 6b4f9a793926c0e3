"""The operations of the decoding core on JAX arrays: traced or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2x.generation.ops import Kind, Ops, Scalar
from gpt2x.generation.registry import register_ops

State = TypeVar("State")

_DTYPES = {"bool": jnp.bool_, "int": jnp.int32, "float": jnp.float32}


class JaxOps(Ops):
    """`Ops` on JAX arrays; scalars are arrays of rank 0, so that no value is traced as constant."""

    def constant(self, value: Any, kind: Kind) -> Array:
        return jnp.asarray(np.asarray(value), _DTYPES[kind])

    def scalar(self, value: float | int | bool, kind: Kind) -> Array:
        return self.cast(value, kind)

    def full(self, shape: Sequence[int | Scalar], value: Any, kind: Kind) -> Array:
        return jnp.full(tuple(shape), self.cast(value, kind))

    def arange(self, size: int | Scalar) -> Array:
        return jnp.arange(size, dtype=jnp.int32)

    def cast(self, x: Any, kind: Kind) -> Array:
        return jnp.asarray(x, _DTYPES[kind])

    def cast_like(self, x: Array, other: Array) -> Array:
        return x.astype(other.dtype)

    def shape(self, x: Array) -> tuple[int | Scalar, ...]:
        return tuple(x.shape)

    def reshape(self, x: Array, shape: Sequence[int | Scalar]) -> Array:
        return jnp.reshape(x, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(list(arrays), axis)

    def where(self, condition: Array | bool, x: Any, y: Any) -> Array:
        return jnp.where(condition, x, y)

    def take(self, x: Array, indices: Array) -> Array:
        return jnp.take(x, indices, axis=0)

    def take_along(self, x: Array, indices: Array) -> Array:
        return jnp.take_along_axis(x, indices, axis=-1)

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        values, indices = lax.top_k(x, k)
        return values, indices

    def argmax(self, x: Array) -> Array:
        return lax.argmax(x, x.ndim - 1, jnp.int32)

    def write(self, x: Array, index: int | Scalar, value: Array, axis: int) -> Array:
        return lax.dynamic_update_index_in_dim(x, jnp.asarray(value, x.dtype), index, axis % x.ndim)

    def scatter_add(self, x: Array, columns: Array, updates: Array) -> Array:
        rows = jnp.arange(x.shape[0])[:, None]
        return x.at[rows, columns].add(jnp.asarray(updates, x.dtype))

    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    log1p = staticmethod(jnp.log1p)
    minimum = staticmethod(jnp.minimum)
    maximum = staticmethod(jnp.maximum)
    sum = staticmethod(jnp.sum)
    max = staticmethod(jnp.max)
    any = staticmethod(jnp.any)
    all = staticmethod(jnp.all)

    def log_softmax(self, x: Array) -> Array:
        return jax.nn.log_softmax(x.astype(jnp.float32), axis=-1)

    def words(self, x: Array) -> Array:
        return lax.bitcast_convert_type(x, jnp.uint32)

    def word_halves(self, words: Array) -> tuple[Array, Array]:
        return (words >> 16).astype(jnp.float32), (words & 0xFFFF).astype(jnp.float32)

    def shift_left(self, words: Array, count: int) -> Array:
        return words << count

    def shift_right(self, words: Array, count: int) -> Array:
        return words >> count

    def float_bits(self, x: Array) -> Array:
        return lax.bitcast_convert_type(x, jnp.int32)

    def while_loop(
        self, condition: Callable[[State], Any], body: Callable[[State], State], state: State
    ) -> State:
        return lax.while_loop(condition, body, state)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)


JAX_OPS = JaxOps()

register_ops(Array, lambda array: JAX_OPS)
