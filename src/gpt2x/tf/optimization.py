"""The optimizer of transformers' TensorFlow scripts, made of Keras's own parts.

Source of the interface: `create_optimizer` of transformers 4.57 (`optimization_tf.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

from gpt2x.errors import InvalidInputError


@keras.saving.register_keras_serializable(package="gpt2x")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 to `initial_learning_rate`, then follows another schedule.

    Args:
        initial_learning_rate: the rate at the end of the warm-up.
        decay_schedule_fn: the schedule that follows, told the steps since the warm-up's end.
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
class AdamWeightDecay(keras.optimizers.AdamW):
    """AdamW that leaves biases and layer norms alone.

    Args:
        include_in_weight_decay: regular expressions; a bias or layer norm is decayed all the same
            if one of them matches its path (``tfgpt2lm_head_model/transformer/ln_f/gamma``).
        options: those of `keras.optimizers.AdamW`.
    """

    def __init__(
        self, *, include_in_weight_decay: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.include_in_weight_decay = list(include_in_weight_decay or ())

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the moments of `variables`, and choose which of them are decayed."""
        self.exclude_from_weight_decay(
            var_list=[
                variable
                for variable in variables
                if variable.name in ("bias", "gamma", "beta")
                and not any(re.search(p, variable.path) for p in self.include_in_weight_decay)
            ]
        )
        super().build(variables)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs."""
        return {
            **super().get_config(),
            "include_in_weight_decay": self.include_in_weight_decay,
        }


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
        include_in_weight_decay: regular expressions; weights whose path one of them matches are
            decayed although they are biases or layer norms, which are left alone otherwise.

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
        initial_learning_rate=init_lr,
        decay_steps=num_train_steps - num_warmup_steps,
        end_learning_rate=init_lr * min_lr_ratio,
        power=power,
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
        weight_decay=weight_decay_rate, include_in_weight_decay=include_in_weight_decay, **options
    )
    return optimizer, schedule
