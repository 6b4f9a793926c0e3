"""Matrix products in which XLA on a CPU reads every weight once, in its stored form.

R rows, N inputs, M outputs; B batch, H heads, S key length, D head_dim.

Decoding multiplies a few rows by every weight of the model, so memory bandwidth decides its speed.
XLA's CPU compiler loses this speed in two ways, which `lax.optimization_barrier` prevents: it fuses
a product of few rows with the operations around it into a scalar loop; and inside a `while_loop` it
converts bfloat16 weights to float32 once for all steps, so that each step reads twice as much. The
barriers change nothing else: they compute nothing, and all transformations of JAX pass through
them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

#: Up to this many rows, reading the weight limits the speed of a product.
FEW_ROWS = 16

# The dimensions that `dot_general` contracts, and no batch: [R, N], [M, N] -> [R, M].
_LAST_BY_LAST = (((1,), (1,)), ((), ()))


def reads_weights_only(rows: int) -> bool:
    """Return whether a product of this many rows needs the barriers; a symbolic number does not."""
    return isinstance(rows, int) and rows <= FEW_ROWS and jax.default_backend() == "cpu"


def project(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Return x @ kernel.T + bias: [..., N], [M, N], [M] -> [..., M], in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])  # [R, N]
    if reads_weights_only(rows.shape[0]):
        # Together with the rows, which change in every step, the weight is not constant in the
        # loop.
        rows, kernel = lax.optimization_barrier((rows, kernel))
        out = lax.optimization_barrier(_rows_by_weight(rows, kernel)).astype(x.dtype)
    else:
        out = _rows_by_weight(rows, kernel).astype(x.dtype)
    out = out if bias is None else out + bias
    return out.reshape(*x.shape[:-1], kernel.shape[0])


def _rows_by_weight(rows: Array, kernel: Array) -> Array:
    """Return rows @ kernel.T: [R, N], [M, N] -> [R, M], in float32 unless they are wider.

    The three forms compute the same, but XLA's CPU compiler makes a different kernel of each. A
    single bfloat16 row takes a transposed kernel, which is otherwise converted as a whole first; a
    few float32 rows are faster as columns; everything else is faster as rows.
    """
    wanted = jnp.promote_types(rows.dtype, jnp.float32)
    if reads_weights_only(rows.shape[0]):
        if rows.shape[0] == 1 and rows.dtype != jnp.float32:
            return rows @ kernel.T
        if rows.shape[0] > 1 and rows.dtype == jnp.float32:
            return lax.dot_general(kernel, rows, _LAST_BY_LAST, preferred_element_type=wanted).T
    return lax.dot_general(rows, kernel, _LAST_BY_LAST, preferred_element_type=wanted)


def attention_dtype(dtype: Any, rows: int) -> Any:
    """Return the dtype in which to keep keys and values, of a model that computes in `dtype`.

    A CPU would convert all bfloat16 keys and values to float32 in every step.
    """
    is_converted = dtype == jnp.bfloat16 and reads_weights_only(rows)
    return jnp.float32 if is_converted else dtype


def attend_from_few_rows(
    query: Array, key: Array, value: Array, mask: Array | None, scaling: float
) -> Array:
    """Attend from one token per row: [B, H, 1, D], 2 x [B, H, S, D] -> [B, H, 1, D].

    The barriers keep both products from becoming scalar loops. Keys and values are multiplied in
    the shape of a folded `KVCache`, so that they are read in place there.
    """
    B, H, S, D = key.shape
    query = (query * scaling).astype(key.dtype)
    query, key, value = lax.optimization_barrier(
        tuple(x.reshape(B * H, -1, D) for x in (query, key, value))
    )
    wide = jnp.promote_types(key.dtype, jnp.float32)
    scores = jnp.einsum("ntd,nsd->nts", query, key, preferred_element_type=wide)
    scores = scores.reshape(B, H, 1, S)
    weights = jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)
    weights = lax.optimization_barrier(weights.astype(value.dtype))
    out = jnp.einsum("nts,nsd->ntd", weights.reshape(B * H, 1, S), value)
    return out.reshape(B, H, 1, D)
