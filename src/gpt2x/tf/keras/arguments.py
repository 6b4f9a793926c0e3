"""The forms of a TensorFlow model's inputs, converted to keyword arguments.

transformers' TensorFlow models take keywords, a dictionary (or the tokenizer's BatchEncoding), a
list in the order of the signature, or a single tensor; Keras would refuse some of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError, unknown_arguments

# Older names in transformers -> names of these arguments.
_ALIASES = {
    "inputs": "input_ids",
    "past": "past_key_values",
    "decoder_cached_states": "past_key_values",
}

_INTEGER_INPUTS = (
    "input_ids",
    "token_type_ids",
    "position_ids",
    "mc_token_ids",
)


def named_inputs(
    where: str, parameters: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Name every argument of a model call.

    Args:
        where: the class of the model, for messages.
        parameters: the parameters of its `call`, in order.
        args: the positional arguments. The first may contain the others: as a mapping by name, or
            as a list or tuple in order.
        kwargs: the keyword arguments.

    Returns:
        Keyword arguments for `call`; ids as int32.

    Raises:
        InvalidInputError: if an argument is unknown or given twice.
    """
    given: dict[str, Any] = {}
    unknown: list[str] = []

    def add(name: str, value: Any) -> None:
        if name in _ALIASES:
            warnings.warn(
                f"The argument {name!r} is deprecated; use {_ALIASES[name]!r}.",
                FutureWarning,
                stacklevel=4,
            )
            name = _ALIASES[name]
        if name not in parameters:
            unknown.append(name)
        elif given.get(name) is not None:
            raise InvalidInputError(f"{where}() got several values for the argument {name!r}.")
        else:
            given[name] = value

    if args and isinstance(args[0], Mapping):
        for name, value in args[0].items():
            add(name, value)
        args = (None, *args[1:])
    elif args and _holds_inputs(args[0]):
        args = (*_in_order(args[0]), *args[1:])
    if len(args) > len(parameters):
        raise InvalidInputError(
            f"{where}() takes at most {len(parameters)} inputs; got {len(args)}."
        )
    for name, value in zip(parameters, args, strict=False):
        if value is not None:
            add(name, value)
    for name, value in kwargs.items():
        # Among them are Keras's own keywords (`training`, `mask` of a functional model).
        add(name, value)
    if unknown:
        raise InvalidInputError(unknown_arguments(where, unknown, parameters))
    return {name: _as_tensor(name, value) for name, value in given.items()}


def _holds_inputs(value: Any) -> bool:
    """Return whether a list contains several inputs; a list of plain numbers is one input."""
    if not isinstance(value, list | tuple):
        return False
    return any(item is None or hasattr(item, "shape") for item in value)


def _in_order(inputs: Sequence[Any]) -> list[Any]:
    # A cache is never a single tensor: `[input_ids, attention_mask]`, as in the documentation of
    # transformers, has no cache.
    if len(inputs) > 1 and hasattr(inputs[1], "shape"):
        return [inputs[0], None, *inputs[1:]]
    return list(inputs)


def _as_tensor(name: str, value: Any) -> Any:
    """Convert lists to tensors, and ids of other integer types to 32 bits."""
    if isinstance(value, list) and name != "past_key_values":
        value = np.asarray(value)
    value = integers_again(value)
    if name not in _INTEGER_INPUTS or not hasattr(value, "dtype"):
        return value
    value = as_ids(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return tf.constant(value, tf.int32)
    return tf.cast(value, tf.int32) if tf.is_tensor(value) and value.dtype.is_integer else value


def as_ids(value: Any) -> Any:
    """Convert ids that are float32 in a trace to int32; return anything else as it is.

    Keras traces a user's own model with float32 inputs when it saves it; `keras.Input` without a
    dtype is float32 too. Arrays with values are not cast: floats are an error there.
    """
    if isinstance(value, keras.KerasTensor):
        is_float = keras.backend.standardize_dtype(value.dtype) in ("float32", "float64")
        return keras.ops.cast(value, "int32") if is_float else value
    is_float = tf.is_tensor(value) and value.dtype in (tf.float32, tf.float64)
    return tf.cast(value, tf.int32) if is_float and tf.is_symbolic_tensor(value) else value


def integers_again(value: Any) -> Any:
    """Convert integers that Keras has averaged back to integers.

    Under a distribution strategy Keras builds metrics on the mean of the replicas' batches, for
    their shapes; ids and labels are then float64 in a graph.
    """
    is_mean = tf.is_tensor(value) and value.dtype == tf.float64 and tf.distribute.has_strategy()
    return tf.cast(value, tf.int32) if is_mean and not tf.executing_eagerly() else value
