"""The learning rate of each step: a pure function, so that a run goes on at any step.

Source: `transformers.optimization`, the schedules of the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gpt2x.train.arguments import TrainingArguments


class Schedule(NamedTuple):
    """A learning rate over the steps of a run.

    Attributes:
        arguments: the run's.
        steps: of the optimizer in all.
    """

    arguments: TrainingArguments
    steps: int

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises: `warmup_steps`, or else the share `warmup_ratio`."""
        given = self.arguments.warmup_steps
        return given or math.ceil(self.steps * self.arguments.warmup_ratio)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        kind, warmup = self.arguments.lr_scheduler_type, self.warmup
        if step < warmup and kind != "constant":
            return self.arguments.learning_rate * step / warmup
        return self.arguments.learning_rate * _FACTORS[kind](self, step)

    def _between(self, falling: float) -> float:
        """Return the factor of a rate that falls from 1 (`falling` 1) to its minimum (0)."""
        least = self.arguments.min_lr_ratio
        return least + (1.0 - least) * falling


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


def _linear(schedule: Schedule, step: int) -> float:
    return schedule._between(1.0 - _progress(step, schedule.warmup, schedule.steps))


def _cosine(schedule: Schedule, step: int) -> float:
    return schedule._between(_half_wave(_progress(step, schedule.warmup, schedule.steps)))


def _inverse_sqrt(schedule: Schedule, step: int) -> float:
    timescale = schedule.warmup or 10_000
    return math.sqrt(timescale / (step + timescale - schedule.warmup))


def _warmup_stable_decay(schedule: Schedule, step: int) -> float:
    first = schedule.steps - math.ceil(schedule.steps * schedule.arguments.decay_ratio)
    return schedule._between(
        _half_wave(_progress(step, max(first, schedule.warmup), schedule.steps))
    )


def _progress(step: int, first: int, last: int) -> float:
    """Return how much of the steps from `first` to `last` is done, from 0 to 1."""
    return min(max((step - first) / max(1, last - first), 0.0), 1.0)


def _half_wave(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


_FACTORS: dict[str, Callable[[Schedule, int], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "constant_with_warmup": _constant,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _warmup_stable_decay,
}
