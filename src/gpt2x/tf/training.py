"""TensorFlow's part in training: see `gpt2x.train.engine`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.tf import distribution
from gpt2x.tf.dropout import DropoutSeeds
from gpt2x.tf.fused_loss import linear_cross_entropy
from gpt2x.train.engine import (
    EngineOptions,
    Evaluated,
    Inputs,
    MicroBatch,
    OptimizerSettings,
    StepResult,
)
from gpt2x.weights.table import TENSORFLOW, Head

_MOMENTS = ("exp_avg", "exp_avg_sq")

_Tensors = Mapping[str, tf.Tensor]


class Engine:
    """Trains a TensorFlow model; see `gpt2x.train.engine.Engine`.

    It trains with the other processes that the environment variable TF_CONFIG names (its `cluster`
    has a `chief` and `worker`s, or workers alone), by `tf.distribute.MultiWorkerMirroredStrategy`;
    else on all GPUs of this machine, or all CPU devices if the program has configured several, by
    `tf.distribute.MirroredStrategy`. Evaluation runs on the first device.

    The functions are compiled to graphs, not by XLA: on a processor XLA takes ten seconds longer to
    compile a small model, and a step then takes as long and more memory.
    """

    def __init__(
        self, load: Callable[[], Any], settings: OptimizerSettings, options: EngineOptions
    ) -> None:
        self._strategy, self.world = distribution.join()
        with self._strategy.scope(), _computing(options.bf16):
            self.model = load()
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        devices = self.world.devices
        self._seeds = DropoutSeeds(
            self.model,
            first=self.world.rank * devices,
            devices=devices,
            same=options.same_dropout,
        )
        self._loss = _Loss(self.model, devices, self._seeds.variables)
        self._names = {
            name: variable
            for name, variable in self.model._canonical_variables()
            if variable.trainable
        }
        self._variables = [variable.value for variable in self._names.values()]
        with self._strategy.scope():
            self._sums = [_zeros(v, tf.VariableSynchronization.ON_READ) for v in self._variables]
            self._optimizer = _AdamW(self._names, settings)

    def step(
        self, micro_batches: Sequence[MicroBatch], number: int, learning_rate: float
    ) -> StepResult:
        total = tf.zeros([])
        for batch in micro_batches:
            weight = tf.constant(batch.weight, tf.float32)
            inputs = distribution.divided(self._strategy, self.world.devices, batch.inputs)
            total += self._add_gradients(inputs, weight, self._seeds(batch))
        return StepResult(total, self._update(*self._optimizer.factors(number, learning_rate)))

    def evaluate(self, inputs: Inputs, *, logits: bool) -> Evaluated:
        tensors = distribution.tensors(inputs)
        if not logits:
            return Evaluated(float(self._evaluated_loss(tensors)), None)
        loss, predictions = self._predicted(tensors)
        return Evaluated(float(loss), predictions.numpy())

    def sampled(self) -> AbstractContextManager[Any]:
        return nullcontext(self.model)

    def total(self, values: np.ndarray) -> np.ndarray:
        if self.world.processes == 1:
            return values
        parts = distribution.of_process(self._strategy, self.world.devices, values)
        sums: np.ndarray = self._summed(parts).numpy()
        return sums

    def save(self, folder: Path) -> None:
        if self.world.rank == 0:
            self.model.save_pretrained(folder)

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{moment}.{name}": np.ascontiguousarray(
                TENSORFLOW.layout(name).to_canonical(value.numpy())
            )
            for moment, values in self._optimizer.moments.items()
            for name, value in zip(self._names, values, strict=True)
        }

    def restore(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        for moment, values in self._optimizer.moments.items():
            for name, value in zip(self._names, values, strict=True):
                value.assign(TENSORFLOW.layout(name).from_canonical(state[f"{moment}.{name}"]))

    # --- compiled; numbers that change are tensors, so that each is traced once ---

    @tf.function(autograph=False)
    def _add_gradients(self, inputs: Any, weight: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Add a micro-batch's gradients to the sums, and return its part of the loss."""

        def run(inputs: _Tensors, weight: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = self._loss(inputs, weight, seeds)
            gradients = tape.gradient(
                loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            for total, gradient in zip(self._sums, gradients, strict=True):
                _add(total, gradient)
            return loss

        losses = self._strategy.run(run, (inputs, weight, seeds))
        return self._strategy.reduce("SUM", losses, axis=None)

    @tf.function(autograph=False)
    def _update(self, *factors: tf.Tensor) -> tf.Tensor:
        """Make a step with the sums of gradients, clear them, and return their norm."""

        def run(*factors: tf.Tensor) -> tf.Tensor:
            gradients = [total.read_value() for total in self._sums]
            if self._strategy.num_replicas_in_sync > 1:
                gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
            for total in self._sums:
                total.assign(tf.zeros_like(total))
            return self._optimizer.step(self._variables, gradients, *factors)

        norms = self._strategy.run(run, factors)
        return self._strategy.experimental_local_results(norms)[0]

    @tf.function(autograph=False)
    def _evaluated_loss(self, inputs: _Tensors) -> tf.Tensor:
        return self._loss(inputs)

    @tf.function(autograph=False)
    def _predicted(self, inputs: _Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        output = self.model(**inputs, return_dict=True, training=False)
        return output.loss, tf.cast(output.logits, tf.float32)

    @tf.function(autograph=False)
    def _summed(self, parts: Any) -> tf.Tensor:
        return self._strategy.reduce("SUM", parts, axis=None)


class _Loss:
    """A model's loss; a language model's without all its logits."""

    def __init__(self, model: Any, devices: int, generators: Sequence[keras.Variable]) -> None:
        self.model = model
        self._devices = devices
        self._generators = generators

    def __call__(
        self, inputs: _Tensors, weight: tf.Tensor | None = None, seeds: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return a device's part of the mean over the labels of all devices, times `weight`.

        Dropout draws from `seeds`, the states of its generators on each device of this process;
        without them there is no dropout, and there are no gradients.
        """
        is_trained = seeds is not None
        labels = {n: inputs[n] for n in self.model.labels_of_outputs if n in inputs}
        given = {name: tensor for name, tensor in inputs.items() if name not in labels}
        run, options = self.model, {"return_dict": True, "training": is_trained}
        if self.model.head is Head.LM:
            run, options = self.model.transformer, {**options, "use_cache": False}
        with keras.StatelessScope(state_mapping=self._states(seeds)):
            output = run(**given, **options)
        if self.model.head is Head.LM:
            return self._next_tokens(output[0], labels["labels"], weight, is_trained)
        losses = {
            name: tf.reduce_sum(target.counted())
            / self._count(tf.reduce_sum(target.weights), weight)
            for name, target in self.model.targets(output, labels).items()
        }
        return self.model.combine(losses)

    def _next_tokens(
        self, hidden: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor | None, is_trained: bool
    ) -> tf.Tensor:
        """Return the loss of a language model of its hidden states [B, T, E]."""
        # Each position predicts the token that follows.
        targets = tf.pad(labels, [[0, 0], [0, 1]], constant_values=IGNORE_INDEX)[:, 1:]
        kept = tf.reduce_sum(tf.cast(targets != IGNORE_INDEX, tf.float32))
        is_tied = self.model.config.tie_word_embeddings
        output = self.model.transformer.wte.embeddings if is_tied else self.model.lm_head.kernel
        return linear_cross_entropy(
            tf.reshape(hidden, [-1, hidden.shape[-1]]),
            output.value if is_tied else tf.transpose(output.value),  # [V, E]
            tf.reshape(targets, [-1]),
            count=self._count(kept, weight),
            needs_hidden=is_trained,
            needs_weight=is_trained and output.trainable,
        )

    def _states(self, seeds: tf.Tensor | None) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return what each generator of dropout holds in a micro-batch, on this device."""
        if seeds is None:
            return []
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = seeds[replica % self._devices]
        return [(state, own[number]) for number, state in enumerate(self._generators)]

    def _count(self, count: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
        """Return what the sum of a device's losses is divided by."""
        if weight is None:
            return count
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            totals = context.all_reduce("SUM", tf.stack([count, weight / self._devices]))
            # Other processes may have labels where a micro-batch of this one has none.
            count, weight = tf.maximum(totals[0], 1.0), totals[1]
        return tf.stop_gradient(count / weight)


class _AdamW:
    """AdamW, which decays only matrices.

    Attributes:
        moments: of each variable, by their names.
    """

    def __init__(self, names: Mapping[str, keras.Variable], settings: OptimizerSettings) -> None:
        self._settings = settings
        # A bias of a projection is stored as a matrix of one row.
        self._decays = [
            TENSORFLOW.layout(name).to_canonical(np.broadcast_to(0, variable.shape)).ndim >= 2
            for name, variable in names.items()
        ]
        self.moments = {
            moment: [_zeros(variable.value) for variable in names.values()] for moment in _MOMENTS
        }

    def factors(self, number: int, learning_rate: float) -> list[tf.Tensor]:
        """Return what a step takes: its rate and epsilon, corrected for the bias, and its decay.

        They come from the host, since 1 - beta2**t has few digits in float32.
        """
        s = self._settings
        root = math.sqrt(1.0 - s.beta2**number)
        rate = learning_rate * root / (1.0 - s.beta1**number)
        factors = rate, s.epsilon * root, learning_rate * s.weight_decay
        return [tf.constant(factor, tf.float32) for factor in factors]

    def step(
        self,
        variables: Sequence[tf.Variable],
        gradients: Sequence[tf.Tensor],
        rate: tf.Tensor,
        epsilon: tf.Tensor,
        decay: tf.Tensor,
    ) -> tf.Tensor:
        """Change the variables of this device, and return the norm of the gradients."""
        s, norm = self._settings, tf.linalg.global_norm(gradients)
        scale = tf.minimum(1.0, s.max_grad_norm / (norm + 1e-6)) if s.max_grad_norm else 1.0
        each = zip(variables, gradients, *self.moments.values(), self._decays, strict=True)
        for variable, gradient, m, v, is_decayed in each:
            if is_decayed and s.weight_decay:
                tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=decay * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=0.0,
                beta2_power=0.0,
                lr=rate,
                beta1=s.beta1,
                beta2=s.beta2,
                epsilon=epsilon,
                grad=gradient * scale,
            )
        return norm


@contextmanager
def _computing(bf16: bool) -> Iterator[None]:
    """Make models that compute in bfloat16, if asked for, with weights in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if bf16 else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _zeros(
    variable: tf.Variable,
    synchronization: tf.VariableSynchronization = tf.VariableSynchronization.AUTO,
) -> tf.Variable:
    """Return a variable of the shape of another, of which each device has its own."""
    zeros = tf.zeros(variable.shape, variable.dtype)
    return tf.Variable(
        zeros,
        trainable=False,
        synchronization=synchronization,
        aggregation=tf.VariableAggregation.SUM,
    )


def _add(total: tf.Variable, gradient: tf.Tensor | tf.IndexedSlices) -> None:
    """Add a gradient to a sum on this device."""
    if isinstance(gradient, tf.IndexedSlices):
        tf.raw_ops.ResourceScatterAdd(
            resource=total.handle, indices=gradient.indices, updates=gradient.values
        )
    else:
        tf.raw_ops.AssignAddVariableOp(resource=total.handle, value=gradient)
