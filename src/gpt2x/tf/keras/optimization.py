"""The optimizer of transformers' TensorFlow scripts, on top of Keras's own.

Source of the interface: `optimization_tf.py` of transformers 4.57.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from gpt2x.errors import InvalidInputError, unknown_arguments


@keras.saving.register_keras_serializable(package="gpt2x")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 to `initial_learning_rate`, then follows another schedule.

    Args:
        initial_learning_rate: the rate at the end of the warm-up.
        decay_schedule_fn: the schedule that follows; it gets the steps since the warm-up's end.
        warmup_steps: length of the warm-up, in optimizer steps.
        power: the rise is (step / warmup_steps) ** power.
        name: name of the operations.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_schedule_fn: keras.optimizers.schedules.LearningRateSchedule,
        warmup_steps: int,
        power: float = 1.0,
        name: str = "WarmUp",
    ) -> None:
        super().__init__()
        self.initial_learning_rate = initial_learning_rate
        self.decay_schedule_fn = decay_schedule_fn
        self.warmup_steps = warmup_steps
        self.power = power
        self.name = name

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rising = self.initial_learning_rate * (step / self.warmup_steps) ** self.power
        falling = self.decay_schedule_fn(keras.ops.maximum(step - self.warmup_steps, 0.0))
        return keras.ops.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_schedule_fn": keras.optimizers.schedules.serialize(self.decay_schedule_fn),
            "warmup_steps": self.warmup_steps,
            "power": self.power,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        decay = keras.optimizers.schedules.deserialize(config["decay_schedule_fn"])
        return cls(**{**config, "decay_schedule_fn": decay})


@keras.saving.register_keras_serializable(package="gpt2x")
class AdamWeightDecay(keras.optimizers.Adam):
    """Adam with decoupled weight decay, for weights chosen by their names.

    A weight's name is its path, ``tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0``. A pattern
    matches a name that contains it, or contains a match of it as a regular expression. Biases
    contain "bias"; the layer norms of GPT-2 contain "ln_", not "LayerNorm".

    Args:
        learning_rate: a number or a schedule.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        epsilon: added to the root of the second moment.
        amsgrad: whether to use the largest second moment so far.
        weight_decay_rate: each step subtracts this, times the learning rate, times the weight.
        include_in_weight_decay: patterns of weights that are decayed even if they are excluded.
        exclude_from_weight_decay: patterns of weights that are not decayed; by default all are.
        name: of the optimizer.
        options: those of `keras.optimizers.Adam` (`clipnorm`, `global_clipnorm` ...); `lr`, the
            older name of `learning_rate`; and `decay`, which divides the learning rate, then a
            number, by 1 + decay * steps.

    Raises:
        InvalidInputError: for `weight_decay`, or for `decay` together with a schedule.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay_rate: float = 0.0,
        include_in_weight_decay: Sequence[str] | None = None,
        exclude_from_weight_decay: Sequence[str] | None = None,
        name: str = "AdamWeightDecay",
        **options: Any,
    ) -> None:
        if "weight_decay" in options:
            raise InvalidInputError(
                unknown_arguments("AdamWeightDecay", ["weight_decay"], ["weight_decay_rate"])
            )
        learning_rate = options.pop("lr", learning_rate)
        decay = options.pop("decay", None)
        if decay:
            learning_rate = _inverse_time_decay(learning_rate, decay)
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay=weight_decay_rate or None,
            name=name,
            **options,
        )
        self.weight_decay_rate = weight_decay_rate
        self._included = list(include_in_weight_decay or ())
        self._excluded = list(exclude_from_weight_decay or ())

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the moments of `variables`, and choose which of them are decayed."""
        if self._excluded:
            self.exclude_from_weight_decay(
                var_list=[
                    variable
                    for variable in variables
                    if _matches(self._excluded, variable) and not _matches(self._included, variable)
                ]
            )
        super().build(variables)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs."""
        config = super().get_config()
        del config["weight_decay"]
        return {
            **config,
            "weight_decay_rate": self.weight_decay_rate,
            "include_in_weight_decay": self._included,
            "exclude_from_weight_decay": self._excluded,
        }


def _matches(patterns: Sequence[str], variable: keras.Variable | tf.Variable) -> bool:
    """Return whether one of the patterns matches the name of a variable."""
    # TensorFlow appends a number to its names; Keras's names and paths have none.
    name = getattr(variable, "path", variable.name).removesuffix(":0")
    return any(
        pattern in f"{name}:0" or re.search(pattern, name) is not None for pattern in patterns
    )


def _inverse_time_decay(
    learning_rate: Any, decay: float
) -> keras.optimizers.schedules.LearningRateSchedule:
    if not isinstance(learning_rate, int | float):
        raise InvalidInputError(
            "decay= needs a learning rate that is a number; a schedule already says how it falls."
        )
    return keras.optimizers.schedules.InverseTimeDecay(learning_rate, 1, decay)


def create_optimizer(
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    min_lr_ratio: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    adam_clipnorm: float | None = None,
    adam_global_clipnorm: float | None = None,
    weight_decay_rate: float = 0.0,
    power: float = 1.0,
    include_in_weight_decay: Sequence[str] | None = None,
) -> tuple[keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule]:
    """Make Adam with decoupled weight decay, a linear warm-up and a polynomial decay.

    Args:
        init_lr: the learning rate at the end of the warm-up.
        num_train_steps: optimizer steps in all, warm-up included.
        num_warmup_steps: optimizer steps of the warm-up; 0 for none.
        min_lr_ratio: the last learning rate, as a fraction of `init_lr`.
        adam_beta1: decay of the first moment.
        adam_beta2: decay of the second moment.
        adam_epsilon: added to the root of the second moment.
        adam_clipnorm: clips each gradient to this norm.
        adam_global_clipnorm: clips all gradients together to this norm.
        weight_decay_rate: decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101).
        power: power of the decay.
        include_in_weight_decay: patterns of weights that are decayed even if they are excluded.
            Weights with "LayerNorm", "layer_norm" or "bias" in their names are excluded: in GPT-2
            only the biases, since its layer norms have other names.

    Returns:
        The optimizer and its schedule.

    Raises:
        InvalidInputError: if the warm-up is not shorter than the training.
    """
    if not 0 <= num_warmup_steps < num_train_steps:
        raise InvalidInputError(
            f"num_warmup_steps must be from 0 to num_train_steps - 1 = {num_train_steps - 1}; "
            f"got {num_warmup_steps}."
        )
    schedule: keras.optimizers.schedules.LearningRateSchedule
    schedule = keras.optimizers.schedules.PolynomialDecay(
        init_lr, num_train_steps - num_warmup_steps, init_lr * min_lr_ratio, power
    )
    if num_warmup_steps:
        schedule = WarmUp(init_lr, schedule, num_warmup_steps)
    options: dict[str, Any] = {
        "learning_rate": schedule,
        "beta_1": adam_beta1,
        "beta_2": adam_beta2,
        "epsilon": adam_epsilon,
        "clipnorm": adam_clipnorm,
        "global_clipnorm": adam_global_clipnorm,
    }
    if weight_decay_rate <= 0.0:
        return keras.optimizers.Adam(**options), schedule
    optimizer = AdamWeightDecay(
        weight_decay_rate=weight_decay_rate,
        include_in_weight_decay=include_in_weight_decay,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
        **options,
    )
    return optimizer, schedule
