"""Constant lookup tables that travel with a SavedModel."""

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
    writes it into the graph as constants, with no file beside it.
    """
    # A layer may be made while a graph is traced; the table must outlive that graph.
    with tf.init_scope():
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(keys), key_dtype), tf.constant(list(values), value_dtype)
        )
        return tf.lookup.StaticHashTable(initializer, default)
