"""The inputs of a TensorFlow model: checked, reshaped, and read on the host if that is free.

B batch, T query length, S key length (past and new).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.config import GPT2Config
from gpt2x.models import checks
from gpt2x.tf.cache import KVCache
from gpt2x.tf.ops import shape_of

Inputs = Mapping[str, tf.Tensor | None]


def check_inputs(config: GPT2Config, cache: KVCache | None, inputs: Inputs) -> None:
    """Check the inputs of a body's call, as far as shapes, lengths and values are known.

    Raises:
        InvalidInputError: for the first error.
    """
    past_length = 0 if cache is None else cache.one_length
    given: dict[str, Any] = dict(inputs)
    checks.check_model_inputs(
        config,
        host_values,
        past_length=past_length if isinstance(past_length, int) else None,
        past_key=None if cache is None else cache.keys[0],
        **given,
    )


def host_values(tensor: tf.Tensor) -> np.ndarray | None:
    """Return a tensor's values if reading them is free: eagerly, on the CPU."""
    if not hasattr(tensor, "numpy") or "CPU" not in tensor.device:
        return None
    return tensor.numpy()


def rows(tensor: tf.Tensor) -> tf.Tensor:
    """Flatten the leading dimensions: [..., T] -> [B, T]."""
    return tensor if tensor.shape.rank == 2 else tf.reshape(tensor, [-1, shape_of(tensor)[-1]])


def visible(attention_mask: tf.Tensor | None) -> tf.Tensor | None:
    """Return the mask as [B, S], or as it is if of rank 4."""
    if attention_mask is None or attention_mask.shape.rank == 4:
        return attention_mask
    return rows(attention_mask)


def is_counting_on(position_ids: tf.Tensor) -> bool:
    """Return whether positions [B, T] are known to increase by one in every row."""
    values = host_values(position_ids)
    return values is not None and bool((np.diff(values) == 1).all())


def positions(
    attention_mask: tf.Tensor | None, past_length: int | tf.Tensor, T: int | tf.Tensor
) -> tf.Tensor:
    """Return the positions [B or 1, T] of the last T tokens, by the mask [B, S] if there is one."""
    if attention_mask is None or attention_mask.shape.rank == 4:
        return (past_length + tf.range(T))[None]
    attended = tf.cumsum(tf.cast(tf.cast(attention_mask, tf.bool), tf.int32), axis=-1)  # [B, S]
    # Not `tf.slice`: XLA compiles that for each place.
    columns = past_length + tf.range(T)
    in_all = tf.gather(attended, past_length + T - 1, axis=1)[:, None]  # [B, 1]
    is_last = tf.cast(attended == in_all, tf.int32)
    last = tf.argmax(is_last, axis=-1, output_type=tf.int32)[:, None]  # [B, 1]
    window = tf.gather(attended, columns, axis=1)  # [B, T]
    # Padding behind the last attended token continues its position, as in transformers.
    return tf.maximum(window - 1, 0) + tf.maximum(columns - last, 0)
