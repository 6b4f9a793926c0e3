"""The callbacks of transformers' TensorFlow scripts: metrics in Python, and uploads while training.

Source of the interfaces: `keras_callbacks.py` of transformers 4.57.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.storage.publishing import push_folder

Arrays = np.ndarray | dict[str, np.ndarray]


class KerasMetricCallback(keras.callbacks.Callback):
    """Computes metrics after every epoch with a function in Python.

    The function gets the predictions (or texts) of all the data at once, as numpy arrays. What it
    returns is added to the metrics of the epoch.

    Args:
        metric_fn: called with the pair (predictions, labels), each an array, or a dictionary of
            arrays where there are several outputs or labels; returns numbers by name. Batches that
            differ in length are padded with -100.
        eval_dataset: batches of inputs, or of (inputs, labels): a `tf.data.Dataset`; or arrays of
            all examples, which are cut into batches of `batch_size`.
        output_cols: names of the outputs to keep; by default all but the loss and the cache.
        label_cols: names of the inputs that are labels; by default the second of each pair, or else
            the inputs that the model takes as labels.
        batch_size: examples in a batch, if `eval_dataset` is not batched.
        predict_with_generate: predict with `model.generate` instead of the forward pass.
        use_xla_generation: compile `generate` with XLA.
        generate_kwargs: further arguments of `generate`.

    Raises:
        InvalidInputError: if arrays come without `batch_size`, there are no examples, or labels
            cannot be found.
    """

    def __init__(
        self,
        metric_fn: Callable[[tuple[Arrays, Arrays]], Mapping[str, float]],
        eval_dataset: Any,
        output_cols: Sequence[str] | None = None,
        label_cols: Sequence[str] | None = None,
        batch_size: int | None = None,
        predict_with_generate: bool = False,
        use_xla_generation: bool = False,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(eval_dataset, tf.data.Dataset):
            if batch_size is None:
                raise InvalidInputError(
                    "The data are arrays of all examples; pass batch_size= to cut them."
                )
            arrays = dict(eval_dataset) if isinstance(eval_dataset, Mapping) else eval_dataset
            eval_dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)
        _check_not_empty(int(eval_dataset.cardinality()))  # negative if TensorFlow cannot tell
        self.metric_fn = metric_fn
        self.eval_dataset = eval_dataset
        self.output_cols = output_cols
        self.label_cols = label_cols
        self.predict_with_generate = predict_with_generate
        self.use_xla_generation = use_xla_generation
        self.generate_kwargs = dict(generate_kwargs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Predict, compute the metrics, and add them to the epoch's `logs`."""
        predictions, labels = [], []
        for batch in self.eval_dataset:
            inputs, label = batch if isinstance(batch, tuple) else (batch, None)
            labels.append(self._labels(inputs, label))
            predictions.append(self._predict(inputs))
        _check_not_empty(len(predictions))
        metrics = self.metric_fn((_joined(predictions), _joined(labels)))
        if not isinstance(metrics, Mapping):
            raise InvalidInputError(
                f"metric_fn must return a dictionary of numbers by name; got {metrics!r}."
            )
        if logs is not None:  # Keras's history reads them there
            logs.update(metrics)

    def _predict(self, inputs: Any) -> dict[str, np.ndarray]:
        if not self.predict_with_generate:
            output = self.model.predict_on_batch(inputs)
            names = output if self.output_cols is None else self.output_cols
            return {name: np.asarray(output[name]) for name in names}
        if not isinstance(inputs, Mapping):
            inputs = {"input_ids": inputs}
        prompt = {n: inputs[n] for n in ("input_ids", "attention_mask") if n in inputs}
        texts = self.model.generate(
            **prompt, jit_compile=self.use_xla_generation, **self.generate_kwargs
        )
        return {"sequences": np.asarray(texts)}

    def _labels(self, inputs: Any, given: Any) -> dict[str, np.ndarray]:
        names = self.label_cols
        if names is None and given is not None:
            given = given if isinstance(given, Mapping) else {"labels": given}
            return {name: np.asarray(value) for name, value in given.items()}
        there = set(inputs) if isinstance(inputs, Mapping) else set()
        if names is None:
            names = [name for name in self.model.labels_of_outputs if name in there]
        if not names or not there.issuperset(names):
            raise InvalidInputError(
                f"KerasMetricCallback finds no labels {list(names)} among the inputs "
                f"{sorted(there)}. Pass pairs of inputs and labels, or label_cols=."
            )
        return {name: np.asarray(inputs[name]) for name in names}


class PushToHubCallback(keras.callbacks.Callback):
    """Saves the model while it trains, and uploads it to the Hugging Face hub in the background.

    While one upload runs, no other is started; the last model is always uploaded.

    Args:
        output_dir: folder that the model is saved to.
        save_strategy: "epoch" saves after every epoch, "steps" after every `save_steps` batches,
            "no" only at the end of the training.
        save_steps: batches between two uploads, for "steps".
        tokenizer: saved and uploaded with the model.
        hub_model_id: ``"name"`` or ``"user/name"``; by default the folder's name.
        hub_token: access token with write permission.
        checkpoint: also save checkpoint.keras, with the optimizer's state, from which
            ``keras.models.load_model`` continues the training. For "epoch" only.

    Raises:
        InvalidInputError: for a value that is not allowed.
        CheckpointError: during the training, if the hub refuses or cannot be reached.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        save_strategy: str = "epoch",
        save_steps: int | None = None,
        tokenizer: Any = None,
        hub_model_id: str | None = None,
        hub_token: str | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_choice("save_strategy", save_strategy, ("epoch", "steps", "no"))
        if save_strategy != "steps":
            save_steps = None
        elif not isinstance(save_steps, int) or save_steps < 1:
            raise InvalidInputError(
                f"save_strategy 'steps' needs save_steps, at least 1; got {save_steps!r}."
            )
        if checkpoint and save_strategy != "epoch":
            raise InvalidInputError("checkpoint=True needs save_strategy='epoch'.")
        self.output_dir = Path(output_dir)
        self.save_strategy = save_strategy
        self.save_steps = save_steps
        self.tokenizer = tokenizer
        self.hub_model_id = hub_model_id
        self.hub_token = hub_token
        self.checkpoint = checkpoint
        self._last: Future[str] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the thread that uploads."""
        self._uploads = ThreadPoolExecutor(max_workers=1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save and upload after every `save_steps` batches, for "steps"."""
        if self.save_steps is not None and (batch + 1) % self.save_steps == 0:
            self._save(f"Training in progress, step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save and upload, for "epoch"."""
        if self.save_strategy == "epoch":
            self._save(f"Training in progress, epoch {epoch + 1}")

    def on_train_end(self, logs: Any = None) -> None:
        """Upload the last model, and wait until it is there."""
        self._wait()
        self._save("End of training")
        self._wait()
        self._uploads.shutdown()

    def _save(self, message: str) -> None:
        if self._last is not None:
            if not self._last.done():
                return
            self._wait()
        self.model.save_pretrained(self.output_dir)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(self.output_dir)
        if self.checkpoint:
            self.model.save(self.output_dir / "checkpoint.keras")
        self._last = self._uploads.submit(
            push_folder,
            self.output_dir,
            self.hub_model_id,
            commit_message=message,
            token=self.hub_token,
        )

    def _wait(self) -> None:
        """Wait for the running upload, and raise its error if it failed."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _check_not_empty(batches: int) -> None:
    if batches == 0:
        raise InvalidInputError(
            "eval_dataset of KerasMetricCallback is empty; metrics need at least one batch."
        )


def _joined(batches: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Join batches by name; return a single array without its name."""
    joined = {name: _concatenated([batch[name] for batch in batches]) for name in batches[0]}
    return joined if len(joined) > 1 else next(iter(joined.values()))


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays [B, ...], padding their second axis with -100 to the longest."""
    if arrays[0].ndim > 1:
        longest = max(array.shape[1] for array in arrays)
        arrays = [
            np.pad(
                array,
                [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)],
                constant_values=IGNORE_INDEX,
            )
            for array in arrays
        ]
    return np.concatenate(arrays)
