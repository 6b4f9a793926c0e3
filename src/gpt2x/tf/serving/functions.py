"""SavedModels of the models: signatures that a server calls by name, without gpt2x."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from gpt2x.models.outputs import ModelOutput
from gpt2x.storage.atomic import atomic_folder
from gpt2x.tf.tracking import COLLECTIONS, TrackedLayer

# In the order in which they move into the folder: the last makes it a SavedModel.
_FILES = ("assets*", "keras_metadata.pb", "fingerprint.pb", "variables", "saved_model.pb")


def write_saved_model(
    module: tf.Module, path: str | os.PathLike[str], signatures: Mapping[str, Any]
) -> None:
    """Write a SavedModel, and replace an older one; it appears whole or not at all."""
    with atomic_folder(path, replaces=_FILES) as folder:
        tf.saved_model.save(module, os.fspath(folder), signatures=signatures)


class ServingMixin(TrackedLayer, keras.Model):
    """`serving` and its signature, the default of a SavedModel; `save_serving` and `export`."""

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """The inputs of `serving`: ids and mask, int32, of any batch size and length."""
        return {
            name: tf.TensorSpec([None, None], tf.int32, name)
            for name in ("input_ids", "attention_mask")
        }

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """One row of inputs for `input_signature`, all ones, with those of an encoder if used."""
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
        """The forward pass as a signature for `tf.saved_model.save`: named tensors in and out."""
        return self._serving(tf.int32)

    def serving_output(self, output: Any) -> dict[str, tf.Tensor]:
        """Make the flat dictionary of tensors that a signature returns of a model's output.

        Tuples over layers are stacked on a new first axis. The cache is left out. A user's own
        class may return a tensor or a tuple; its parts are called output_0, output_1 ...
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
            path: the folder; it is made if it does not exist.
            signatures: functions by name; by default the forward pass, as `serving_default` for
                int32 inputs and as `int64_serving` for int64 ones.
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
        """Return `input_signature` without what `call` does not take, in a user's own class."""
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
            format: "tf_saved_model", with an endpoint `serve` that returns a dictionary of
                tensors; or another format of Keras.
            verbose: whether Keras prints how to use the artifact.
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
        for name in COLLECTIONS:  # TensorFlow's variables: each is written once (`TrackedLayer`)
            archive.add_variable_collection(name, [v.value for v in getattr(self, name)])
        archive.add_endpoint("serve", self._serve, input_signature=input_signature)
        archive.write_out(os.fspath(filepath), verbose=verbose)

    @property
    def _default_save_signature(self) -> tf.types.experimental.GenericFunction:
        # TensorFlow takes the signature from here if `tf.saved_model.save` is given none.
        return self.serving
