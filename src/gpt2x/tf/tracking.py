"""How the variables of layers appear in SavedModels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

#: The attributes in which a layer lists its variables.
COLLECTIONS = ("variables", "trainable_variables", "non_trainable_variables")


class TrackedLayer(keras.layers.Layer):
    """A layer that writes each of its variables once into a SavedModel, whatever contains it.

    Keras writes each of its variables twice: its own object and the TensorFlow variable in it. The
    functions read the TensorFlow variable, but an older reader (TensorFlow Lite's converter) gives
    a value only to Keras's object. Here the TensorFlow variable replaces Keras's object, and the
    loaded object has the attributes `variables`, `trainable_variables` and
    `non_trainable_variables`. The optimizer is not written. `tf.train.Checkpoint` is not affected.
    """

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        children = super()._trackable_children(save_type, **options)
        if save_type != "savedmodel":
            return children
        children.update({name: list(getattr(self, name)) for name in COLLECTIONS})
        return {
            name: _as_tensorflow(child, options)
            for name, child in children.items()
            if not isinstance(child, keras.optimizers.Optimizer)
        }


def _as_tensorflow(child: Any, options: Mapping[str, Any]) -> Any:
    """Replace Keras's variables by their TensorFlow variables, in other libraries' layers too."""
    if isinstance(child, keras.Variable):
        return child.value
    if isinstance(child, keras.layers.Layer) and not isinstance(child, TrackedLayer):
        child = child._trackable_children("savedmodel", **options)
    if isinstance(child, dict):
        return {name: _as_tensorflow(item, options) for name, item in child.items()}
    if isinstance(child, list):
        return [_as_tensorflow(item, options) for item in child]
    return child


@keras.saving.register_keras_serializable(package="gpt2x")
class Embedding(TrackedLayer, keras.layers.Embedding):
    """`keras.layers.Embedding`, tracked."""


@keras.saving.register_keras_serializable(package="gpt2x")
class LayerNormalization(TrackedLayer, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization`, tracked."""


@keras.saving.register_keras_serializable(package="gpt2x")
class Dense(TrackedLayer, keras.layers.Dense):
    """`keras.layers.Dense`, tracked."""
