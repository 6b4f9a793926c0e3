"""Training with Keras: the models' own losses, labels in the inputs or as `y`, metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.models.outputs import ModelOutput
from gpt2x.tf.inputs import integers_again, named_inputs
from gpt2x.tf.keras.data import make_dataset

# How transformers spells the wish for the model's own loss, besides None.
_OWN_LOSS = ("auto", "auto_with_warning", "passthrough")


class Target(NamedTuple):
    """Predictions beside the labels that they are judged by.

    Attributes:
        logits: [..., classes], or [..., numbers] for a regression.
        labels: class ids [...], those that are left out replaced by 0; or as `logits`.
        weights: float32, shaped as `losses`; 0 for what is left out, else 1.
        losses: float32, the loss of each prediction.
    """

    logits: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    losses: tf.Tensor

    def counted(self) -> tf.Tensor:
        """Return the losses that count, and 0 for the others, whose gradients are 0 whatever
        follows: also where the mean over nothing is NaN, as in PyTorch.
        """
        return tf.where(self.weights > 0, self.losses, 0.0)

    def loss(self) -> tf.Tensor:
        """Return the mean of the losses that count, a scalar; NaN if none does."""
        return tf.reduce_sum(self.counted()) / tf.reduce_sum(self.weights)


def classes(
    logits: tf.Tensor, labels: tf.Tensor, ignore_index: int | tf.Tensor = IGNORE_INDEX
) -> Target:
    """Judge logits [..., classes] by class ids [...], leaving out `ignore_index`."""
    labels = tf.cast(labels, tf.int32)
    counts = labels != ignore_index
    labels = tf.where(counts, labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return Target(logits, labels, tf.cast(counts, tf.float32), losses)


def next_tokens(logits: tf.Tensor, labels: tf.Tensor, ignore_index: int = IGNORE_INDEX) -> Target:
    """Judge logits [..., T, V] by the labels [..., T] of the tokens that follow."""
    return classes(logits[..., :-1, :], labels[..., 1:], ignore_index)


def choices(mc_logits: tf.Tensor, mc_labels: tf.Tensor) -> Target:
    """Judge scores [B, C] by the right choices, [B] or [B, 1]."""
    rows = tf.reshape(mc_logits, [-1, tf.shape(mc_logits)[-1]])
    return classes(rows, tf.reshape(mc_labels, [-1]))


def positions(scores: tf.Tensor, where: tf.Tensor) -> Target:
    """Judge scores [B, T] by positions [B] or [B, 1], leaving out those behind the text."""
    T = tf.shape(scores)[1]
    where = tf.clip_by_value(tf.reshape(tf.cast(where, tf.int32), [-1]), 0, T)
    return classes(scores, where, ignore_index=T)


def numbers(logits: tf.Tensor, labels: tf.Tensor, loss: Callable[..., tf.Tensor]) -> Target:
    """Judge logits [B, labels] by as many numbers, with `loss(labels, logits)` between them."""
    logits = tf.cast(logits, tf.float32)
    labels = tf.reshape(tf.cast(labels, tf.float32), tf.shape(logits))
    return Target(logits, labels, tf.ones_like(logits), loss(labels, logits))


class TrainingMixin(keras.Model):
    """`compile`, `fit`, `evaluate` and `predict` of the models.

    Labels stand in the inputs under their names, or in `y`: one array for a model with one kind of
    labels, a dictionary for others. Without a loss given to `compile`, the model's own is used, and
    metrics see what it sees: next tokens beside the logits that predict them, nothing that is left
    out. With a loss, both it and metrics get `y` and the logits as they are.
    """

    #: Names of the label arguments, and of the outputs that they judge.
    labels_of_outputs: ClassVar[Mapping[str, str]] = {}

    _uses_own_loss = False

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        """Pair the logits of one output with the labels of the argument `name` that judge it."""
        raise InvalidInputError(f"{type(self).__name__} has no loss; use a model with a head.")

    def targets(self, output: ModelOutput, labels: Mapping[str, tf.Tensor]) -> dict[str, Target]:
        """Pair predictions with the labels that are given, by the name of the output."""
        return {
            predicted: self.target(name, output[predicted], labels[name])
            for name, predicted in self.labels_of_outputs.items()
            if name in labels
        }

    def combine(self, losses: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return the loss to train with from the loss of each output: their sum."""
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

        What differs from output to output comes as a dictionary by the outputs' names, or, losses
        and their weights, as a list in their order; None stands for what is not trained, such as
        the cache.

        Args:
            optimizer: a Keras optimizer or its name.
            loss: a Keras loss of `y` and the logits, or one for each output; None, or
                transformers' "auto" or "passthrough", for the model's own.
            metrics: Keras metrics, or for each output its own.
            loss_weights: factors of the losses.
            weighted_metrics: metrics that sample weights count for.
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
        """Return what `compile` got for each output as Keras takes it for those that have labels.

        That is the value alone where there is one output, else a dictionary.
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
        """Compile as the model that a `.keras` file holds was, optimizer included."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Make what runs a training step; called by Keras."""
        if self.optimizer is not None and not self.optimizer.built:
            # Variables that a step made itself would have TensorFlow trace it twice.
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
        """Return the mean loss, of which each of R replicas holds one R-th.

        Keras sums the gradients of all replicas, and logs R times what each returns, weighed by its
        rows. Replicas may hold different numbers of rows and labels. So the gradient is that of the
        replica's part of the sum, and the value that of all.
        """
        losses, count = target.counted(), tf.reduce_sum(target.weights)
        if sample_weight is not None:
            losses *= _aligned(tf.cast(sample_weight, losses.dtype), losses)
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
        predictions = {name: _masked(target) for name, target in targets.items()}
        if len(targets) == 1:
            (target,) = targets.values()
            (truths,), (predictions,) = truths.values(), predictions.values()
            if sample_weight is not None:
                sample_weight = _aligned(sample_weight, target.losses)
        return super().compute_metrics(x, truths, predictions, sample_weight)

    # Keras takes dictionaries, but no other mappings, such as a tokenizer's BatchEncoding.

    @functools.wraps(keras.Model.fit)
    def fit(self, x: Any = None, *args: Any, **options: Any) -> keras.callbacks.History:
        held_out = options.get("validation_data")
        if isinstance(held_out, tuple | list):
            options["validation_data"] = (_dictionary(held_out[0]), *held_out[1:])
        return super().fit(_dictionary(x), *args, **options)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x: Any = None, *args: Any, **options: Any) -> Any:
        return super().evaluate(_dictionary(x), *args, **options)

    @functools.wraps(keras.Model.predict)
    def predict(self, x: Any, *args: Any, **options: Any) -> ModelOutput:
        return super().predict(_dictionary(x), *args, **options)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, x: Any, *args: Any, **options: Any) -> Any:
        return super().train_on_batch(_dictionary(x), *args, **options)

    @functools.wraps(keras.Model.test_on_batch)
    def test_on_batch(self, x: Any, *args: Any, **options: Any) -> Any:
        return super().test_on_batch(_dictionary(x), *args, **options)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x: Any) -> ModelOutput:
        return super().predict_on_batch(_dictionary(x))

    def predict_step(self, data: Any) -> ModelOutput:
        """Return the outputs of one batch, without loss and cache, which batches cannot share."""
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
        """Make batches for `fit` out of a sequence of examples, such as a `datasets.Dataset`.

        Columns that the model does not take are left out; `label` and `label_ids` are its labels,
        which become `y`.

        Args:
            dataset: a sequence of dictionaries, one an example.
            batch_size: examples in a batch.
            shuffle: draw a new order in every epoch, from TensorFlow's global generator.
            tokenizer: pads examples of different lengths, and labels of tokens (with -100).
            collate_fn: makes a batch of arrays of a list of examples, in the tokenizer's place.
            collate_fn_args: further keyword arguments of `collate_fn`.
            drop_remainder: leave out a last batch that is not full; by default as `shuffle`.
            prefetch: make the next batch while the model computes.

        Raises:
            InvalidInputError: if the data set is empty, or no sequence, or cannot be stacked.
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
        """Collect the labels from the inputs and from `y`, by the names of their arguments."""
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
        """Return what Keras compares: labels and the logits that they judge, as they are."""
        outputs = self.labels_of_outputs
        pairs = {
            outputs[name]: (value, output[outputs[name]])
            for name, value in labels.items()
            if name in outputs
        }
        if not pairs:  # a user's own loss may compare anything with the first output
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


def _aligned(sample_weight: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
    """Bring weights of rows, or of labels, to the shape of the losses (of labels but the first)."""
    while sample_weight.shape.rank < losses.shape.rank:
        sample_weight = sample_weight[..., None]
    if losses.shape.rank > 1:
        sample_weight = sample_weight[..., -tf.shape(losses)[-1] :]
    return tf.broadcast_to(sample_weight, tf.shape(losses))


def _masked(target: Target) -> tf.Tensor:
    """Return the logits with the mask that makes metrics leave out what the loss leaves out."""
    logits = tf.identity(target.logits)
    # Keras's own way for a mask to travel with a tensor; metrics have no other for what is not
    # a sample weight.
    logits._keras_mask = tf.cast(target.weights, tf.bool)
    return logits
