"""Constant lookup tables that are stored in a SavedModel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def static_table(
    keys: Iterable[Any],
    values: Iterable[Any],
    *,
    key_dtype: tf.DType,
    value_dtype: tf.DType,
    default: Any,
) -> tf.lookup.StaticHashTable:
    """Make a `StaticHashTable` that gives `default` for absent keys.

    Set as an attribute of a `tf.Module` or layer, the table is tracked: `tf.saved_model.save`
    writes it into the graph as constants, without a further file.
    """
    keys, values = list(keys), list(values)
    # A layer may be made while a graph is traced; the table must outlive that graph.
    with tf.init_scope():
        if not keys:
            # TensorFlow does not accept an empty table, so it gets an entry without effect.
            keys, values = tf.zeros([1], key_dtype), [default]
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.convert_to_tensor(keys, key_dtype), tf.constant(values, value_dtype)
        )
        return tf.lookup.StaticHashTable(initializer, default)
