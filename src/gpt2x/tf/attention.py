"""Attention implementations, the registry that names them, and the masks they take.

B batch, T query length, S key length, H heads, D head_dim. `gpt2x.models.attention` says how an
implementation is called, and what the masks look like.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from gpt2x.models.attention import AttentionRegistry


def eager_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor | None,
    *,
    scaling: float,
    dropout: Callable[[tf.Tensor], tf.Tensor],
    head_mask: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attend step by step, and return the attention weights [B, H, T, S] as well.

    `dropout` is a layer, which knows whether the model is training. `head_mask` (broadcast to
    [B, H, T, S]) multiplies the weights.
    """
    if query.dtype == tf.float16:
        # Scores can exceed float16, but not bfloat16, whose cache XLA would convert in each step.
        query, key = tf.cast(query, tf.float32), tf.cast(key, tf.float32)
    scores = tf.matmul(query, key, transpose_b=True) * scaling  # [B, H, T, S]
    scores = tf.cast(scores, score_dtype(scores.dtype))
    if mask is not None:
        scores = _masked(scores, mask)
    weights = dropout(tf.cast(tf.nn.softmax(scores, axis=-1), value.dtype))
    if head_mask is not None:
        weights = weights * tf.cast(head_mask, weights.dtype)
    return tf.matmul(weights, value), weights


def _masked(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Add a mask to scores [B, H, T, S]."""
    # With one axis more, since TensorFlow without XLA would fuse product, factor and mask into an
    # operation of four axes, which oneDNN computes hundreds of times slower than these three.
    return tf.squeeze(tf.expand_dims(scores, -3) + tf.expand_dims(mask, -3), -3)


def sdpa_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor | None,
    *,
    scaling: float,
    dropout: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Attend as `eager_attention` does: TensorFlow has no fused kernel."""
    return eager_attention(query, key, value, mask, scaling=scaling, dropout=dropout)[0]


_REGISTRY = AttentionRegistry(
    {
        "sdpa": sdpa_attention,
        # Without weights; the model calls `eager_attention` if they are requested.
        "eager": sdpa_attention,
    }
)
register_attention = _REGISTRY.register
get_attention = _REGISTRY.get


def score_dtype(dtype: tf.DType | str) -> tf.DType:
    """Return the dtype of the scores, and of the masks added to them, of queries in `dtype`."""
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def causal_mask(
    T: int | tf.Tensor, S: int | tf.Tensor, past: int | tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Return the mask [T, S] of T queries that follow `past` positions."""
    query, key = past + tf.range(T)[:, None], tf.range(S)[None, :]
    return tf.where(key > query, tf.constant(dtype.min, dtype), tf.constant(0, dtype))


def self_attention_mask(
    attention_mask: tf.Tensor | None,
    T: int | tf.Tensor,
    S: int | tf.Tensor,
    past: int | tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor | None:
    """Combine a user's mask with causal order into one mask [B, 1 or H, T, S].

    None if there is nothing to mask: one query, and no key behind it.

    Args:
        attention_mask: None; [B, S], nonzero where a key may be seen; or rank 4, boolean (True
            where it may be seen) or additive. One of rank 4 with T rows replaces the causal order;
            with one row for all queries it is added to it.
        T: query length.
        S: key length: `past` + T, or more if a cache has room left.
        past: positions before the queries, an int; a scalar if a cache may have room left.
        dtype: of the mask.
    """
    room_left = not isinstance(past, int)
    nothing_ahead = isinstance(T, int) and T == 1 and not room_left
    if attention_mask is None:
        return None if nothing_ahead else causal_mask(T, S, past, dtype)[None, None]
    mask = _fit(padding_mask(attention_mask, dtype), S)
    in_order = attention_mask.shape.rank == 4 and attention_mask.shape[2] != 1
    if not in_order and not nothing_ahead:
        mask = tf.minimum(mask, causal_mask(T, S, past, dtype))
    elif room_left:
        # The mask decides the order of tokens; only unfilled positions must be hidden.
        mask = tf.minimum(mask, causal_mask(1, S, past + T - 1, dtype))
    return raise_hidden_rows(mask)


def _fit(mask: tf.Tensor, S: int | tf.Tensor) -> tf.Tensor:
    """Cut or extend the last axis to S; added columns are behind the last token."""
    if isinstance(S, int) and mask.shape[-1] == S:
        return mask
    mask = mask[..., :S]
    return tf.pad(mask, [[0, 0], [0, 0], [0, 0], [0, S - tf.shape(mask)[-1]]])


def padding_mask(attention_mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Make a mask of rank 2, 3 ([B, T, S], for cross-attention) or 4 additive and of rank 4."""
    lowest = tf.constant(dtype.min / 2, dtype)
    if attention_mask.shape.rank == 4 and attention_mask.dtype.is_floating:
        return tf.maximum(tf.cast(attention_mask, dtype), lowest)
    while attention_mask.shape.rank < 4:
        attention_mask = attention_mask[:, None]
    return tf.where(tf.cast(attention_mask, tf.bool), tf.constant(0, dtype), lowest)


def raise_hidden_rows(mask: tf.Tensor) -> tf.Tensor:
    """Raise each row of a mask that hides all keys, so that its highest entries are 0.

    This does not change softmax, but its precision: scores would vanish beside `dtype.min / 2`.
    """
    return mask - tf.minimum(
        tf.reduce_max(mask, axis=-1, keepdims=True), tf.constant(0, mask.dtype)
    )


def packed_mask(position_ids: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return the mask [B, 1, T, T] that separates packed texts.

    A new text starts where `position_ids` [B or 1, T] does not continue by one.
    """
    before = tf.concat([position_ids[:, :1] - 1, position_ids[:, :-1]], axis=1)
    text = tf.cumsum(tf.cast(position_ids - before != 1, tf.int32), axis=-1)  # [B, T]
    other_text = text[:, None, :, None] != text[:, None, None, :]
    T = tf.shape(position_ids)[1]
    mask = causal_mask(T, T, 0, dtype)
    return tf.where(other_text, tf.constant(dtype.min, dtype), mask)
