"""Attention implementations, the registry that names them, and the masks they take.

B batch, T query length, S key length, H heads, D head_dim. `gpt2x.models.attention` says how an
implementation is called, and what the masks look like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gpt2x.flax.cpu.products import attend_from_few_rows, reads_weights_only
from gpt2x.models.attention import AttentionRegistry


def eager_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    *,
    scaling: float,
    dropout: Callable[[Array], Array] | None = None,
    head_mask: Array | None = None,
) -> tuple[Array, Array]:
    """Attend step by step, and return the attention weights [B, H, T, S] as well.

    `dropout` drops weights; None in inference. `head_mask` (broadcast to [B, H, T, S]) multiplies
    them.
    """
    wide = score_dtype(query.dtype)
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=wide)  # [B, H, T, S]
    scores = scores * scaling
    if mask is not None:
        scores = scores + mask
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    if head_mask is not None:
        weights = weights * head_mask
    return jnp.einsum("bhts,bhsd->bhtd", weights, value), weights


def sdpa_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    *,
    scaling: float,
    dropout: Callable[[Array], Array] | None = None,
) -> Array:
    """Attend by `jax.nn.dot_product_attention`, or, one token on a CPU, head by head.

    That function has no dropout of the weights, and no product of float16 on a CPU; both are
    computed eagerly.
    """
    if dropout is not None or query.dtype == jnp.float16:
        return eager_attention(query, key, value, mask, scaling=scaling, dropout=dropout)[0]
    if query.shape[2] == 1 and reads_weights_only(query.shape[0]):
        return attend_from_few_rows(query, key, value, mask, scaling)
    out = jax.nn.dot_product_attention(
        query.swapaxes(1, 2),  # [B, T, H, D]
        key.swapaxes(1, 2).astype(query.dtype),
        value.swapaxes(1, 2).astype(query.dtype),
        mask,
        scale=scaling,
    )
    return out.swapaxes(1, 2)


_REGISTRY = AttentionRegistry(
    {
        "sdpa": sdpa_attention,
        # Without weights; the model calls `eager_attention` if they are requested.
        "eager": lambda *arrays, **options: eager_attention(*arrays, **options)[0],
    }
)
register_attention = _REGISTRY.register
get_attention = _REGISTRY.get


def score_dtype(dtype: Any) -> Any:
    """Return the dtype of the scores, and of the masks added to them, of queries in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def causal_mask(T: int, S: int, past: int | Array, dtype: Any) -> Array:
    """Return the mask [T, S] of T queries that follow `past` positions."""
    query, key = past + jnp.arange(T)[:, None], jnp.arange(S)[None, :]
    return jnp.where(key > query, jnp.finfo(dtype).min, jnp.zeros((), dtype))


def self_attention_mask(
    attention_mask: Array | None, T: int, S: int, past: int | Array, dtype: Any
) -> Array | None:
    """Combine a user's mask with causal order into one mask [B, 1 or H, T, S].

    None if there is nothing to mask: one query, and no key behind it.

    Args:
        attention_mask: None; [B, S], nonzero where a key may be seen; or rank 4, boolean (True
            where it may be seen) or additive. One of rank 4 with T rows replaces the causal order;
            with one row for all queries it is added to it.
        T: query length.
        S: key length; more than `past` + T if a cache has room left.
        past: positions before the queries.
        dtype: of the mask.
    """
    room_left = not isinstance(past, int) or past + T != S
    if attention_mask is None:
        return None if T == 1 and not room_left else causal_mask(T, S, past, dtype)[None, None]
    mask = _fit(padding_mask(attention_mask, dtype), S)
    in_order = attention_mask.ndim == 4 and attention_mask.shape[2] != 1
    if not in_order and (T != 1 or room_left):
        mask = jnp.minimum(mask, causal_mask(T, S, past, dtype))
    elif room_left:
        # The mask decides the order of tokens; only unfilled positions must be hidden.
        mask = jnp.minimum(mask, causal_mask(1, S, past + T - 1, dtype))
    return raise_hidden_rows(mask)


def _fit(mask: Array, S: int) -> Array:
    """Cut or extend the last axis to S; added columns are behind the last token."""
    if mask.shape[-1] == S:
        return mask
    mask = mask[..., :S]
    return jnp.pad(mask, [(0, 0)] * 3 + [(0, S - mask.shape[-1])])


def padding_mask(attention_mask: Array, dtype: Any) -> Array:
    """Make a mask of rank 2, 3 ([B, T, S], for cross-attention) or 4 additive and of rank 4."""
    lowest = jnp.finfo(dtype).min / 2
    if attention_mask.ndim == 4 and jnp.issubdtype(attention_mask.dtype, jnp.floating):
        return jnp.maximum(attention_mask.astype(dtype), lowest)
    while attention_mask.ndim < 4:
        attention_mask = attention_mask[:, None]
    return jnp.where(attention_mask.astype(bool), jnp.zeros((), dtype), lowest)


def raise_hidden_rows(mask: Array) -> Array:
    """Raise each row of a mask that hides all keys, so that its highest entries are 0.

    This does not change softmax, but its precision: scores would vanish beside `finfo.min / 2`.
    """
    return mask - jnp.minimum(mask.max(axis=-1, keepdims=True), 0.0)


def packed_mask(position_ids: Array, dtype: Any) -> Array:
    """Return the mask [B, 1, T, T] that separates packed texts.

    A new text starts where `position_ids` [B or 1, T] does not continue by one.
    """
    starts = jnp.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1
    text = starts.cumsum(axis=-1)  # [B, T]
    other_text = text[:, None, :, None] != text[:, None, None, :]
    T = position_ids.shape[1]
    return jnp.where(other_text, jnp.finfo(dtype).min, causal_mask(T, T, 0, dtype))
