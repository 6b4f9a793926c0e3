"""Matrix products, written so that XLA on a CPU reads every weight once and as it is stored.

R rows, N inputs, M outputs; B batch, H heads, S key length, D head_dim.

Decoding multiplies a few rows by every weight of the model, so memory bandwidth decides its speed.
XLA's CPU compiler gives that away in two ways, which `lax.optimization_barrier` stops: it fuses a
product of few rows with what stands before and behind it into a scalar loop, and, inside a
`while_loop`, it converts bfloat16 weights to float32 once for all steps, so that each step reads
twice as much. Nothing else changes: the barriers compute nothing, and all transformations of JAX
pass through them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

#: Up to how many rows a product is bound by reading its weight.
FEW_ROWS = 16


def reads_weights_only(rows: int) -> bool:
    """Whether a product of this many rows (a symbolic number counts as many) needs the barriers."""
    return isinstance(rows, int) and rows <= FEW_ROWS and jax.default_backend() == "cpu"


def project(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Return x @ kernel.T + bias: [..., N], [M, N], [M] -> [..., M], in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])  # [R, N]
    if reads_weights_only(rows.shape[0]):
        # Held together with the rows, which change from step to step, the weight is no constant of
        # the loop.
        rows, kernel = lax.optimization_barrier((rows, kernel))
        out = lax.optimization_barrier(_rows_by_weight(rows, kernel)).astype(x.dtype)
    else:
        out = _rows_by_weight(rows, kernel).astype(x.dtype)
    out = out if bias is None else out + bias
    return out.reshape(*x.shape[:-1], kernel.shape[0])


def _rows_by_weight(rows: Array, kernel: Array) -> Array:
    """Return rows @ kernel.T: [R, N], [M, N] -> [R, M], in float32 except for one narrow row."""
    wanted = None if rows.shape[0] == 1 and rows.dtype != jnp.float32 else jnp.float32
    if rows.dtype == jnp.float64:
        wanted = None
    return lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())), preferred_element_type=wanted)


def attend_from_few_rows(
    query: Array, key: Array, value: Array, mask: Array | None, scaling: float
) -> Array:
    """Attend from one token a row: [B, H, 1, D], 2 x [B, H, S, D] -> [B, H, 1, D].

    A single row goes head by head, since XLA's batched product of vectors is a scalar loop; for
    more rows that would be too many products to compile.
    """
    query, key, value = lax.optimization_barrier((query, key, value))
    query = (query * scaling).astype(key.dtype)
    if query.shape[0] > 1:
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
        return jnp.einsum("bhts,bhsd->bhtd", _weights(scores, mask, value), value)
    heads = range(query.shape[1])
    scores = jnp.stack([_rows_by_weight(query[0, h], key[0, h]) for h in heads])[None]
    weights = _weights(scores.astype(jnp.float32), mask, value)
    return jnp.stack([weights[0, h] @ value[0, h] for h in heads])[None]


def _weights(scores: Array, mask: Array | None, value: Array) -> Array:
    weights = jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)
    return lax.optimization_barrier(weights.astype(value.dtype))
