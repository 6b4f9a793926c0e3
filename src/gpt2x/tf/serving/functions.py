"""SavedModels of the models: what a server calls, by name, without gpt2x."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from gpt2x.models.outputs import ModelOutput
from gpt2x.storage.atomic import atomic_folder
from gpt2x.tf.tracking import COLLECTIONS, TrackedLayer

# As they move into a folder; without the last, there is no SavedModel.
_FILES = ("assets*", "keras_metadata.pb", "fingerprint.pb", "variables", "saved_model.pb")


def write_saved_model(
    module: tf.Module, path: str | os.PathLike[str], signatures: Mapping[str, Any]
) -> None:
    """Write a SavedModel, in place of an older one; it appears whole or not at all."""
    with atomic_folder(path, replaces=_FILES) as folder:
        tf.saved_model.save(module, os.fspath(folder), signatures=signatures)


class ServingMixin(TrackedLayer, keras.Model):
    """`serving` and its signature; the call of a SavedModel that is given no other."""

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What `serving` takes: ids and mask, int32, of any batch and length."""
        return {
            name: tf.TensorSpec([None, None], tf.int32, name)
            for name in ("input_ids", "attention_mask")
        }

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """Inputs of `input_signature`, all ones, one row; the encoder's where there is one."""
        inputs = {
            name: tf.ones([1, *(size or 2 for size in spec.shape[1:])], spec.dtype)
            for name, spec in self.input_signature.items()
        }
        name = "encoder_hidden_states"
        if self.config.add_cross_attention and name in self._call_parameters:
            inputs[name] = tf.ones([1, 2, self.config.n_embd])
        return inputs

    @property
    def serving(self) -> tf.types.experimental.GenericFunction:
        """The forward pass as a signature for `tf.saved_model.save`: tensors in and out by name."""
        return self._serving(tf.int32)

    def serving_output(self, output: Any) -> dict[str, tf.Tensor]:
        """Bring an output to the flat dictionary of tensors that signatures return.

        Tuples over layers are stacked on a new first axis. The cache is left out. What is no
        output object, of a class of a user's own, is called output_0, output_1 ...
        """
        if not isinstance(output, ModelOutput | Mapping):
            parts = output if isinstance(output, tuple | list) else [output]
            output = {f"output_{number}": part for number, part in enumerate(parts)}
        return {
            name: tf.stack(value) if isinstance(value, tuple) else value
            for name, value in output.items()
            if name != "past_key_values"
        }

    def save_serving(self, path: str | os.PathLike[str], signatures: Any = None) -> None:
        """Write a SavedModel; it appears whole or not at all.

        Args:
            path: the folder, made if need be.
            signatures: functions by name; by default `serving_default` for int32 inputs and
                `int64_serving`, both the forward pass.
        """
        if signatures is None:
            signatures = {
                "serving_default": self._serving(tf.int32),
                "int64_serving": self._serving(tf.int64),
            }
        write_saved_model(self, path, signatures)

    def _serving(self, dtype: tf.DType) -> tf.types.experimental.GenericFunction:
        return tf.function(self._serve, input_signature=[self._signature(dtype)], autograph=False)

    def _signature(self, dtype: tf.DType) -> dict[str, tf.TensorSpec]:
        """Return those of the inputs that `call` takes, which a user's own class may narrow."""
        return {
            name: tf.TensorSpec(spec.shape, dtype if spec.dtype.is_integer else spec.dtype, name)
            for name, spec in self.input_signature.items()
            if name in self._call_parameters
        }

    def _serve(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        options = {"use_cache": False, "return_dict": True}
        options = {n: value for n, value in options.items() if n in self._call_parameters}
        return self.serving_output(self(inputs, **options, training=False))

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **options: Any,
    ) -> None:
        """Write the forward pass for inference, as `keras.Model.export` does.

        Args:
            filepath: the folder to write.
            format: "tf_saved_model", whose endpoint `serve` returns a dictionary of tensors, or
                another of Keras's.
            verbose: whether Keras tells how to use the artifact.
            input_signature: of the endpoint; by default `[model.input_signature]`.
            **options: of Keras, for other formats.
        """
        if input_signature is None:
            input_signature = [self._signature(tf.int32)]
        if format != "tf_saved_model":
            super().export(
                filepath, format, verbose=verbose, input_signature=input_signature, **options
            )
            return
        archive = keras.export.ExportArchive()
        archive.track(self)
        for name in COLLECTIONS:  # TensorFlow's, lest each be written twice (see `TrackedLayer`)
            archive.add_variable_collection(name, [v.value for v in getattr(self, name)])
        archive.add_endpoint("serve", self._serve, input_signature=input_signature)
        archive.write_out(os.fspath(filepath), verbose=verbose)

    @property
    def _default_save_signature(self) -> tf.types.experimental.GenericFunction:
        # The name under which TensorFlow looks for the signature of a model that is saved without.
        return self.serving
