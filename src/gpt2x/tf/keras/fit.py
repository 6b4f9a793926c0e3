"""`compile`, `fit`, `evaluate` and `predict` of the models: losses, labels and metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.models.outputs import ModelOutput
from gpt2x.tf.keras.arguments import integers_again, named_inputs
from gpt2x.tf.keras.data import make_dataset
from gpt2x.tf.keras.losses import Target

# With these, or None, `compile` of transformers' models takes the model's own loss.
_OWN_LOSS = ("auto", "auto_with_warning", "passthrough")


def _with_mappings(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of `keras.Model` take any mapping, such as a `BatchEncoding`, for its inputs.

    Keras itself takes dictionaries, but not other mappings.
    """

    @functools.wraps(method)
    def call(self: keras.Model, x: Any = None, *args: Any, **options: Any) -> Any:
        return method(self, _dictionary(x), *args, **options)

    return call


class TrainingMixin(keras.Model):
    """`compile`, `fit`, `evaluate` and `predict` of the models.

    Labels come in the inputs, under their names, or as `y`: one array for a model with one kind of
    labels, else a dictionary. If `compile` gets no loss, the model's own is used, and metrics see
    what it sees: next tokens beside the logits that predict them, without ignored labels. If
    `compile` gets a loss, the loss and the metrics get `y` and the logits as they are.
    """

    #: Names of the label arguments -> names of the outputs that they are compared with.
    labels_of_outputs: ClassVar[Mapping[str, str]] = {}

    _uses_own_loss = False

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        """Compare the logits of one output with its labels, given as the argument `name`."""
        raise InvalidInputError(f"{type(self).__name__} has no loss; use a model with a head.")

    def targets(self, output: ModelOutput, labels: Mapping[str, tf.Tensor]) -> dict[str, Target]:
        """Compare each output with its labels, if they are given; by the name of the output."""
        return {
            predicted: self.target(name, output[predicted], labels[name])
            for name, predicted in self.labels_of_outputs.items()
            if name in labels
        }

    def combine(self, losses: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return the loss to train with: the sum of the losses of the outputs."""
        return tf.add_n(list(losses.values()))

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        *,
        jit_compile: bool | str = "auto",
        **options: Any,
    ) -> None:
        """Configure the model for training, as `keras.Model.compile` does.

        For a model with several outputs, `loss`, `loss_weights` and metrics may be dictionaries by
        the outputs' names; losses and their weights also lists in the outputs' order. An output
        that is not trained, such as the cache, has None there.

        Args:
            optimizer: a Keras optimizer or its name.
            loss: a Keras loss of `y` and the logits, or one for each output; None, or
                transformers' "auto" or "passthrough", for the model's own.
            metrics: Keras metrics, or for each output its own.
            loss_weights: factors of the losses.
            weighted_metrics: metrics that apply the sample weights.
            jit_compile: whether to compile steps with XLA. "auto" means no, since XLA compiles a
                step again for each length that a batch has.
            **options: as in Keras.

        Raises:
            InvalidInputError: if a loss, weight or metric is for an output that has no labels.
        """
        self._uses_own_loss = loss is None or (isinstance(loss, str) and loss in _OWN_LOSS)
        super().compile(
            optimizer,
            loss=None if self._uses_own_loss else self._for_outputs("loss", loss),
            loss_weights=self._for_outputs("loss_weights", loss_weights),
            metrics=self._for_outputs("metrics", metrics),
            weighted_metrics=self._for_outputs("weighted_metrics", weighted_metrics),
            jit_compile=jit_compile is True,
            **options,
        )
        self._uses_own_loss = self._uses_own_loss or self._compile_loss is None

    def _for_outputs(self, argument: str, given: Any) -> Any:
        """Return an argument of `compile` as Keras takes it, for the outputs that have labels.

        That is a dictionary, or the value alone if there is one such output.
        """
        outputs = list(self.labels_of_outputs.values())
        if isinstance(given, list | tuple) and argument.startswith("loss"):
            listed = [*outputs, *map(str, range(len(outputs), len(given)))]
            given = dict(zip(listed, given, strict=False))
        if not isinstance(given, Mapping) or not outputs:
            return given
        given = {name: value for name, value in given.items() if value is not None}
        unlabelled = [name for name in given if name not in outputs]
        if unlabelled:
            raise InvalidInputError(
                f"{argument}= names {', '.join(unlabelled)}; {type(self).__name__} has labels for "
                f"{' and '.join(outputs)}. Leave out the others, or pass None for them."
            )
        if len(outputs) > 1:
            return given or None
        alone = given.get(outputs[0])
        is_one_metric = alone is not None and not argument.startswith("loss")
        return [alone] if is_one_metric and not isinstance(alone, list | tuple) else alone

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compile as the saved model was compiled; called by Keras for a `.keras` file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Return the function that runs a training step; called by Keras."""
        if self.optimizer is not None and not self.optimizer.built:
            # If a step made the variables itself, TensorFlow would trace it twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Return the scalar that training minimises; called by Keras for each batch."""
        labels = self._labels(x, y)
        if not self._uses_own_loss:
            y, predictions = self._matched(y, labels, y_pred)
            return super().compute_loss(x, y, predictions, sample_weight, training)
        losses = {
            name: self._distributed_loss(target, sample_weight)
            for name, target in self.targets(y_pred, labels).items()
        }
        if not losses:
            names = " and ".join(self.labels_of_outputs)
            raise InvalidInputError(
                f"{type(self).__name__} got no labels to compute a loss from. Put {names} into the "
                "inputs, or pass them as y."
            )
        regularization = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return tf.add_n([self.combine(losses), *regularization])

    def _distributed_loss(self, target: Target, sample_weight: Any) -> tf.Tensor:
        """Return the mean loss over all replicas, divided by their number R.

        Keras sums the gradients of the replicas, and logs R times what each returns, weighted by
        its rows. Replicas may have different numbers of rows and labels. So the gradient is that of
        this replica's part of the mean, and the value is the same on every replica.
        """
        losses, count = target.counted(), tf.reduce_sum(target.weights)
        if sample_weight is not None:
            losses *= target.aligned(tf.cast(sample_weight, losses.dtype))
        total, replicas = tf.reduce_sum(losses), self.distribute_strategy.num_replicas_in_sync
        if replicas == 1:
            return total / count
        totals = tf.stop_gradient(tf.stack([total, count]))
        all_total, all_count = tf.unstack(
            tf.distribute.get_replica_context().all_reduce("SUM", totals)
        )
        part, mean = total / all_count, all_total / all_count
        return part + tf.stop_gradient(mean / replicas - part)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Update the metrics and return their values; called by Keras for each batch."""
        labels = self._labels(x, y)
        if not self._uses_own_loss:
            y, predictions = self._matched(y, labels, y_pred)
            return super().compute_metrics(x, y, predictions, sample_weight)
        targets = self.targets(y_pred, labels)
        truths = {name: target.labels for name, target in targets.items()}
        predictions = {name: target.masked_logits() for name, target in targets.items()}
        if len(targets) == 1:
            ((name, target),) = targets.items()
            truths, predictions = truths[name], predictions[name]
            if sample_weight is not None:
                sample_weight = target.aligned(sample_weight)
        return super().compute_metrics(x, truths, predictions, sample_weight)

    @functools.wraps(keras.Model.fit)
    def fit(self, x: Any = None, *args: Any, **options: Any) -> keras.callbacks.History:
        held_out = options.get("validation_data")
        if isinstance(held_out, tuple | list):
            options["validation_data"] = (_dictionary(held_out[0]), *held_out[1:])
        return super().fit(_dictionary(x), *args, **options)

    evaluate = _with_mappings(keras.Model.evaluate)
    predict = _with_mappings(keras.Model.predict)
    train_on_batch = _with_mappings(keras.Model.train_on_batch)
    test_on_batch = _with_mappings(keras.Model.test_on_batch)
    predict_on_batch = _with_mappings(keras.Model.predict_on_batch)

    def predict_step(self, data: Any) -> ModelOutput:
        """Return the outputs of one batch, without the loss and the cache, whose sizes differ."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        inputs = self._named(x)
        for name in self.labels_of_outputs:
            inputs.pop(name, None)
        options = {"use_cache": False, "return_dict": True}
        inputs.update({n: value for n, value in options.items() if n in self._call_parameters})
        return self(**inputs, training=False)

    def prepare_tf_dataset(
        self,
        dataset: Any,
        batch_size: int = 8,
        shuffle: bool = True,
        tokenizer: Any = None,
        collate_fn: Any = None,
        collate_fn_args: Mapping[str, Any] | None = None,
        drop_remainder: bool | None = None,
        prefetch: bool = True,
    ) -> tf.data.Dataset:
        """Make batches for `fit` of a sequence of examples, such as a `datasets.Dataset`.

        Columns that the model does not take are left out. Labels (`labels`, also called `label` or
        `label_ids`) become `y`.

        Args:
            dataset: a sequence of dictionaries, each an example.
            batch_size: examples in a batch.
            shuffle: draw a new order in every epoch, from TensorFlow's global generator.
            tokenizer: pads examples of different lengths, and labels with -100 where every example
                of a batch has one for each token.
            collate_fn: makes arrays of a list of examples, instead of the tokenizer.
            collate_fn_args: further keyword arguments of `collate_fn`.
            drop_remainder: leave out a last batch that is not full; the default is `shuffle`.
            prefetch: make the next batch while the model computes.

        Raises:
            InvalidInputError: if the data set is empty or not a sequence, its examples cannot be
                stacked, or only some of a batch have a label for each token.
        """
        return make_dataset(
            dataset,
            self._call_parameters,
            tuple(self.labels_of_outputs),
            batch_size=batch_size,
            shuffle=shuffle,
            tokenizer=tokenizer,
            collate_fn=collate_fn,
            collate_fn_args=collate_fn_args,
            drop_remainder=drop_remainder,
            prefetch=prefetch,
        )

    def _named(self, x: Any) -> dict[str, Any]:
        return named_inputs(type(self).__name__, self._call_parameters, (x,), {})

    def _labels(self, x: Any, y: Any) -> dict[str, tf.Tensor]:
        """Return the labels among the inputs and in `y`, by the names of their arguments."""
        names = self.labels_of_outputs
        labels = {name: value for name, value in self._named(x).items() if name in names}
        if y is None:
            return labels
        if isinstance(y, Mapping):
            named = dict(y)
        elif isinstance(y, tuple | list):
            named = dict(zip(names, y, strict=False))
        else:
            named = {next(iter(names), ""): y}
        arguments = {output: name for name, output in names.items()}
        labels.update({arguments.get(name, name): value for name, value in named.items()})
        return {name: integers_again(value) for name, value in labels.items() if value is not None}

    def _matched(
        self, y: Any, labels: Mapping[str, tf.Tensor], output: ModelOutput
    ) -> tuple[Any, Any]:
        """Return the labels and the logits that Keras compares, as they are."""
        outputs = self.labels_of_outputs
        pairs = {
            outputs[name]: (value, output[outputs[name]])
            for name, value in labels.items()
            if name in outputs
        }
        if not pairs:  # a user's own loss compares anything with the first output
            return y, output if tf.is_tensor(output) else output[0]
        if len(outputs) == 1:
            return next(iter(pairs.values()))
        return (
            {name: label for name, (label, _) in pairs.items()},
            {name: logits for name, (_, logits) in pairs.items()},
        )


def _dictionary(x: Any) -> Any:
    """Make a dictionary of another mapping; return anything else as it is."""
    return dict(x) if isinstance(x, Mapping) and not isinstance(x, dict) else x
