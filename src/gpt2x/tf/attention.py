"""Attention implementations, the registry that names them, and the masks they take.

B batch, T query length, S key length, H heads, D head_dim.

A mask is additive, float32 and finite, so that a row that may attend to nothing gives numbers, not
NaN. It has two levels: a padded key is moved out of reach of any other (`float32.min / 2`), a
future key out of reach even of that (`float32.min`). A query all of whose keys are padding has its
row raised (`raise_hidden_rows`): it attends to the padding up to its own position as if that were
text, the same in every implementation, and never sees the future.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from gpt2x.errors import InvalidInputError, check_choice

#: (query [B,H,T,D], key [B,H,S,D], value [B,H,S,D], mask [B|1,H|1,T|1,S] or None;
#: scaling, dropout) -> [B,H,T,D].
AttentionFunction = Callable[..., tf.Tensor]

_LOWEST = tf.float32.min


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
        # float16 does not hold all scores. bfloat16 does; XLA would convert its cache each step.
        query, key = tf.cast(query, tf.float32), tf.cast(key, tf.float32)
    scores = tf.matmul(query, key, transpose_b=True) * scaling  # [B, H, T, S]
    scores = tf.cast(scores, tf.float32)
    if mask is not None:
        scores = scores + mask
    weights = dropout(tf.cast(tf.nn.softmax(scores, axis=-1), value.dtype))
    if head_mask is not None:
        weights = weights * tf.cast(head_mask, weights.dtype)
    return tf.matmul(weights, value), weights


def _weightless(*arrays: tf.Tensor, **options: object) -> tf.Tensor:
    return eager_attention(*arrays, **options)[0]  # type: ignore[arg-type]


_REGISTRY: dict[str, AttentionFunction] = {
    # TensorFlow has no fused kernel: both names are one implementation, so that a config says the
    # same to every backend.
    "sdpa": _weightless,
    "eager": _weightless,
}


def register_attention(name: str, function: AttentionFunction) -> None:
    """Make `function` available as `attn_implementation=name`.

    It is called with query [B, H, T, D], key and value [B, H, S, D] and an additive mask (float32,
    broadcastable to [B, H, T, S], or None), and by keyword `scaling` (the factor of the scores,
    every config flag included) and `dropout` (a Keras layer for the attention weights); it returns
    [B, H, T, D]. Calls that ask for attention weights or pass a head mask use the eager
    implementation instead.

    Raises:
        InvalidInputError: for the name of a built-in implementation.
    """
    if name in ("eager", "sdpa"):
        raise InvalidInputError(
            f"{name!r} is a built-in attention implementation; choose another name."
        )
    _REGISTRY[name] = function


def get_attention(name: str) -> AttentionFunction:
    """Return the implementation registered as `name`; raises InvalidInputError for another name."""
    if name not in _REGISTRY:
        check_choice("attn_implementation", name, _REGISTRY)
    return _REGISTRY[name]


def causal_mask(T: int | tf.Tensor, S: int | tf.Tensor, past: int | tf.Tensor) -> tf.Tensor:
    """Return the mask [T, S] of T queries that follow `past` positions."""
    query, key = past + tf.range(T)[:, None], tf.range(S)[None, :]
    return tf.where(key > query, _LOWEST, 0.0)


def self_attention_mask(
    attention_mask: tf.Tensor | None,
    T: int | tf.Tensor,
    S: int | tf.Tensor,
    past: int | tf.Tensor,
) -> tf.Tensor | None:
    """Combine a user's mask with causal order into one mask [B, 1 or H, T, S].

    None where there is nothing to mask: one query, and no key behind it.

    Args:
        attention_mask: None; [B, S], nonzero where a key may be seen; or rank 4, boolean (True
            where it may be seen) or additive. One of rank 4 with T rows replaces the causal order;
            with one row for all queries it is added to it.
        T: query length.
        S: key length: `past` + T, or more where a cache has room left.
        past: positions before the queries, an int; or a scalar, and then room may be left.
    """
    room_left = not isinstance(past, int)
    nothing_ahead = isinstance(T, int) and T == 1 and not room_left
    if attention_mask is None:
        return None if nothing_ahead else causal_mask(T, S, past)[None, None]
    mask = _fit(padding_mask(attention_mask), S)
    in_order = attention_mask.shape.rank == 4 and attention_mask.shape[2] != 1
    if not in_order and not nothing_ahead:
        mask = tf.minimum(mask, causal_mask(T, S, past))
    elif room_left:
        # Its order of tokens stands; only what is not filled yet has to be hidden.
        mask = tf.minimum(mask, causal_mask(1, S, past + T - 1))
    return raise_hidden_rows(mask)


def _fit(mask: tf.Tensor, S: int | tf.Tensor) -> tf.Tensor:
    """Cut or lengthen the last axis to S; what is added lies behind the last token."""
    if isinstance(S, int) and mask.shape[-1] == S:
        return mask
    mask = mask[..., :S]
    return tf.pad(mask, [[0, 0], [0, 0], [0, 0], [0, S - tf.shape(mask)[-1]]])


def padding_mask(attention_mask: tf.Tensor) -> tf.Tensor:
    """Bring a mask of rank 2, 3 ([B, T, S], for cross-attention) or 4 to an additive rank 4."""
    lowest = _LOWEST / 2
    if attention_mask.shape.rank == 4 and attention_mask.dtype.is_floating:
        return tf.maximum(tf.cast(attention_mask, tf.float32), lowest)
    while attention_mask.shape.rank < 4:
        attention_mask = attention_mask[:, None]
    return tf.where(tf.cast(attention_mask, tf.bool), 0.0, lowest)


def raise_hidden_rows(mask: tf.Tensor) -> tf.Tensor:
    """Add to each row of a mask that hides all keys what lifts its highest ones to 0.

    Softmax stays as it is, and precise: beside `float32.min / 2` the scores would vanish.
    """
    return mask - tf.minimum(tf.reduce_max(mask, axis=-1, keepdims=True), 0.0)


def packed_mask(position_ids: tf.Tensor) -> tf.Tensor:
    """Return the mask [B, 1, T, T] that keeps packed texts apart.

    A new text starts wherever `position_ids` [B or 1, T] does not count on by one.
    """
    before = tf.concat([position_ids[:, :1] - 1, position_ids[:, :-1]], axis=1)
    text = tf.cumsum(tf.cast(position_ids - before != 1, tf.int32), axis=-1)  # [B, T]
    other_text = text[:, None, :, None] != text[:, None, None, :]
    T = tf.shape(position_ids)[1]
    return tf.where(other_text, _LOWEST, causal_mask(T, T, 0))
