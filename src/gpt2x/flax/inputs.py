"""The inputs of a Flax model: checked, reshaped, and read on the host if that is free.

B batch, T query length, S key length (past and new).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.flax.cache import KVCache
from gpt2x.models import checks

Inputs = Mapping[str, Any]


def check_inputs(config: GPT2Config, cache: KVCache | None, inputs: Inputs) -> None:
    """Check the inputs of a body's call, as far as shapes, lengths and values are known.

    Raises:
        InvalidInputError: for the first error.
    """
    for name, value in inputs.items():
        if value is not None and not hasattr(value, "dtype"):
            raise InvalidInputError(
                f"{name} must be an array of JAX or numpy; got {type(value).__name__}. Wrap it in "
                'jnp.asarray, or tokenize with return_tensors="jax".'
            )
    tokens, embeds = inputs["input_ids"], inputs["inputs_embeds"]
    shape: tuple[Any, ...] = () if tokens is None else tuple(tokens.shape)
    if embeds is not None:
        shape = tuple(embeds.shape[:-1])
    past_length = 0 if cache is None else cache.one_length
    is_known = isinstance(past_length, int) and all(isinstance(size, int) for size in shape)
    given = dict(inputs)
    if cache is not None and not cache.is_full and len(shape) > 1 and isinstance(shape[-1], int):
        filled = past_length if is_known else None
        given["attention_mask"] = _check_room(cache, filled, shape[-1], inputs["attention_mask"])
    checks.check_model_inputs(
        config,
        host_values,
        # A length that is traced, or beside symbolic sizes (`jax.export`), cannot be compared.
        past_length=past_length if is_known else None,
        past_key=None if cache is None else cache.key_spec,
        **given,
    )


def _check_room(cache: KVCache, filled: Any, new: int, attention_mask: Any) -> Any:
    """Raise unless a static cache with `filled` positions (None: unknown) has room for `new` ones.

    Returns the mask; for a mask of all slots, one of the filled positions, which can be checked.
    """
    end = new if filled is None else filled + new
    if end > cache.max_length:
        raise InvalidInputError(
            f"{new} new tokens do not fit the cache, which has room for "
            f"{max(cache.max_length - end + new, 0)} more, {cache.max_length} in all. Make room "
            "with cache.extend()."
        )
    if attention_mask is None or attention_mask.shape[-1] < cache.max_length:
        return attention_mask
    if attention_mask.shape[-1] > cache.max_length:
        raise InvalidInputError(
            f"attention_mask covers {attention_mask.shape[-1]} tokens; the cache has room for "
            f"{cache.max_length}."
        )
    if filled is None:
        return attention_mask
    return jax.ShapeDtypeStruct((*attention_mask.shape[:-1], end), "int32")


def host_values(array: Any) -> np.ndarray | None:
    """Return an array's values if reading them is free: on the CPU, outside of tracing."""
    if isinstance(array, np.ndarray):
        return array
    if not isinstance(array, Array) or isinstance(array, jax.core.Tracer):
        return None
    on_cpu = array.is_fully_addressable and all(d.platform == "cpu" for d in array.devices())
    return np.asarray(array) if on_cpu else None


def rows(array: Any) -> Array:
    """Flatten the leading dimensions: [..., T] -> [B, T], int32 (or bool, of a mask)."""
    array = jnp.asarray(array)
    return array.reshape(-1, array.shape[-1])


def visible(attention_mask: Any, cache: KVCache | None) -> Any:
    """Return the mask to compute with: None if it is known to hide nothing.

    Without a mask the faster path is used. For a static cache the mask is extended to all slots if
    it is on the host. Unfilled slots are masked anyway, but a step with a mask of another width
    would be compiled again.
    """
    if attention_mask is None or attention_mask.ndim == 4:
        return attention_mask
    values = host_values(attention_mask)
    if values is None:
        return attention_mask
    if cache is None or cache.is_full:
        return None if values.all() else attention_mask
    room = [(0, 0)] * (values.ndim - 1) + [(0, cache.max_length - values.shape[-1])]
    return np.pad(values, room, constant_values=1)


def is_counting_on(position_ids: Array) -> bool:
    """Return whether positions [B, T] are known to increase by one in every row."""
    values = host_values(position_ids)
    return values is not None and bool((np.diff(values) == 1).all())


def positions(attention_mask: Array | None, past_length: int | Array, T: int) -> Array:
    """Return the positions [B or 1, T] of the last T tokens, by the mask [B, S] if there is one."""
    if attention_mask is None or attention_mask.ndim == 4:
        return (past_length + jnp.arange(T))[None]
    attended = attention_mask.astype(bool).astype(jnp.int32).cumsum(axis=-1)  # [B, S]
    in_all = lax.dynamic_slice_in_dim(attended, past_length + T - 1, 1, axis=1)
    last = (attended == in_all).argmax(axis=-1, keepdims=True)  # [B, 1]
    window = lax.dynamic_slice_in_dim(attended, past_length, T, axis=1)
    columns = past_length + jnp.arange(T)
    # Padding behind the last attended token continues its position, as in transformers.
    return jnp.maximum(window - 1, 0) + jnp.maximum(columns - last, 0)
