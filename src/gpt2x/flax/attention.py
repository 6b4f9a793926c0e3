"""Attention implementations, the registry that names them, and the masks they take.

B batch, T query length, S key length, H heads, D head_dim.

A mask is additive, float32 and finite, so that a row that may attend to nothing gives numbers, not
NaN. It has two levels: a padded key is moved out of reach of any other (`finfo.min / 2`), a future
key out of reach even of that (`finfo.min`). A query all of whose keys are padding has its row
raised (`raise_hidden_rows`): it attends to the padding up to its own position as if that were text,
the same in every implementation, and never sees the future.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.flax.cpu.products import attend_from_few_rows, reads_weights_only

#: (query [B,H,T,D], key [B,H,S,D], value [B,H,S,D], mask [B|1,H|1,T|1,S] or None;
#: scaling, dropout) -> [B,H,T,D].
AttentionFunction = Callable[..., Array]

_LOWEST = float(jnp.finfo(jnp.float32).min)


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
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
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

    Dropout of the weights, which that function has not, is computed eagerly; so is float16, of
    which it has no product on a CPU.
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


_REGISTRY: dict[str, AttentionFunction] = {
    "sdpa": sdpa_attention,
    # For its result alone; the model calls `eager_attention` itself where the weights are wanted.
    "eager": lambda *arrays, **options: eager_attention(*arrays, **options)[0],
}


def register_attention(name: str, function: AttentionFunction) -> None:
    """Make `function` available as `attn_implementation=name`.

    It is called with query [B, H, T, D], key and value [B, H, S, D] and an additive mask (float32,
    broadcastable to [B, H, T, S], or None), and by keyword `scaling` (the factor of the scores,
    every config flag included) and `dropout` (a function of the attention weights, or None in
    inference); it returns [B, H, T, D]. Calls that ask for attention weights or pass a head mask
    use the eager implementation instead.

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


def causal_mask(T: int, S: int, past: int | Array) -> Array:
    """Return the mask [T, S] of T queries that follow `past` positions."""
    query, key = past + jnp.arange(T)[:, None], jnp.arange(S)[None, :]
    return jnp.where(key > query, _LOWEST, 0.0)


def self_attention_mask(
    attention_mask: Array | None, T: int, S: int, past: int | Array
) -> Array | None:
    """Combine a user's mask with causal order into one mask [B, 1 or H, T, S].

    None where there is nothing to mask: one query, and no key behind it.

    Args:
        attention_mask: None; [B, S], nonzero where a key may be seen; or rank 4, boolean (True
            where it may be seen) or additive. One of rank 4 with T rows replaces the causal order;
            with one row for all queries it is added to it.
        T: query length.
        S: key length; more than `past` + T where a cache has room left.
        past: positions before the queries.
    """
    room_left = not isinstance(past, int) or past + T != S
    if attention_mask is None:
        return None if T == 1 and not room_left else causal_mask(T, S, past)[None, None]
    mask = _fit(padding_mask(attention_mask), S)
    in_order = attention_mask.ndim == 4 and attention_mask.shape[2] != 1
    if not in_order and (T != 1 or room_left):
        mask = jnp.minimum(mask, causal_mask(T, S, past))
    elif room_left:
        # Its order of tokens stands; only what is not filled yet has to be hidden.
        mask = jnp.minimum(mask, causal_mask(1, S, past + T - 1))
    return raise_hidden_rows(mask)


def _fit(mask: Array, S: int) -> Array:
    """Cut or lengthen the last axis to S; what is added lies behind the last token."""
    if mask.shape[-1] == S:
        return mask
    mask = mask[..., :S]
    return jnp.pad(mask, [(0, 0)] * 3 + [(0, S - mask.shape[-1])])


def padding_mask(attention_mask: Array) -> Array:
    """Bring a mask of rank 2, 3 ([B, T, S], for cross-attention) or 4 to an additive rank 4."""
    lowest = _LOWEST / 2
    if attention_mask.ndim == 4 and jnp.issubdtype(attention_mask.dtype, jnp.floating):
        return jnp.maximum(attention_mask.astype(jnp.float32), lowest)
    while attention_mask.ndim < 4:
        attention_mask = attention_mask[:, None]
    return jnp.where(attention_mask.astype(bool), 0.0, lowest)


def raise_hidden_rows(mask: Array) -> Array:
    """Add to each row of a mask that hides all keys what lifts its highest ones to 0.

    Softmax stays as it is, and precise: beside `finfo.min / 2` the scores would vanish.
    """
    return mask - jnp.minimum(mask.max(axis=-1, keepdims=True), 0.0)


def packed_mask(position_ids: Array) -> Array:
    """Return the mask [B, 1, T, T] that keeps packed texts apart.

    A new text starts wherever `position_ids` [B or 1, T] does not count on by one.
    """
    starts = jnp.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1
    text = starts.cumsum(axis=-1)  # [B, T]
    other_text = text[:, None, :, None] != text[:, None, None, :]
    T = position_ids.shape[1]
    return jnp.where(other_text, _LOWEST, causal_mask(T, T, 0))
