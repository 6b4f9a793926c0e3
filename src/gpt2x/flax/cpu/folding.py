"""Folded buffers of a `KVCache`: [B x H, S, D] in place of [B, H, S, D].

A CPU's XLA updates a folded buffer in place, but makes four copies a step of one of rank 4, which
its product with the query takes in another shape than the loop. Functions here take buffers of
either rank.

B batch, H heads, T new tokens, S positions, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from gpt2x.flax.cpu.products import reads_weights_only

Shape = tuple[int, ...]


def folded(buffers: Sequence[Any]) -> tuple[list[Any], int | None]:
    """Return buffers [B, H, S, D], or None, folded and H; where that is not faster, as they are."""
    first = buffers[0]
    if first is None or not reads_weights_only(first.shape[0]):
        return [*buffers], None
    return [buffer.reshape(-1, *buffer.shape[2:]) for buffer in buffers], first.shape[1]


def unfolded_shape(shape: Shape, heads: int | None) -> Shape:
    """Return [B, H, S, D] for the shape of a buffer; `heads` is H if it is folded."""
    if heads is None or len(shape) == 4:
        return shape
    return (shape[0] // heads, heads, *shape[1:])


def unfolded(buffer: Any, heads: int | None) -> Any:
    """Return a buffer, or None, as [B, H, S, D]; `heads` is H if it is folded."""
    if buffer is None or heads is None:
        return buffer
    return buffer.reshape(unfolded_shape(buffer.shape, heads))


def written(buffer: Array, new: Array, length: Array | None) -> Array:
    """Return the buffer with `new` [B, H, T, D] at `length`, or at its end if that is None.

    `length` may be one column of each row, [B]; what is beyond the room is then dropped.
    """
    heads = new.shape[1]
    new = new.reshape(*buffer.shape[:-2], *new.shape[-2:]).astype(buffer.dtype)
    if length is None:
        return jnp.concatenate([buffer, new], axis=-2)
    if length.ndim:
        return _written_by_row(buffer, new, length, heads)
    return lax.dynamic_update_slice_in_dim(buffer, new, length, axis=-2)


def _written_by_row(buffer: Array, new: Array, starts: Array, heads: int) -> Array:
    """Return the buffer with `new`, of the same rank, at columns `starts` [B]."""
    shape, (S, D) = buffer.shape, buffer.shape[-2:]
    flat, new = buffer.reshape(-1, S, D), new.reshape(-1, new.shape[-2], D)  # [B x H, S or T, D]
    columns = jnp.repeat(starts, heads)[:, None] + jnp.arange(new.shape[1])
    rows = jnp.arange(flat.shape[0])[:, None]
    written = flat.at[rows, columns].set(new, mode="drop", unique_indices=True)
    return written.reshape(shape)


def take_rows(buffer: Array, rows: Array, heads: int | None) -> Array:
    """Return the buffer whose row i is row `rows[i]`; `heads` is H if it is folded."""
    taken = jnp.take(unfolded(buffer, heads), rows, axis=0)
    return taken if buffer.ndim == 4 else taken.reshape(-1, *buffer.shape[1:])
