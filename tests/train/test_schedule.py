"""Learning rates, held against transformers' schedules."""

import json

import pytest

from gpt2x.train.arguments import SCHEDULES, TrainingArguments
from gpt2x.train.schedule import Schedule
from support.golden_data import GOLDEN

STEPS, WARMUP, DECAY = 40, 7, 10
RATES = json.loads((GOLDEN / "training" / "schedules.json").read_text())
THEIR_NAME = {"wsd": "warmup_stable_decay"}


def schedule(name, steps=STEPS, **arguments):
    arguments = TrainingArguments(
        output_dir="", lr_scheduler_type=name, **{"learning_rate": 1.0, **arguments}
    )
    return Schedule(arguments, steps)


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_transformers(name, warmup):
    found = schedule(name, warmup_steps=warmup, decay_ratio=DECAY / STEPS)
    rates = [found.learning_rate(step) for step in range(STEPS)]
    assert rates == pytest.approx(RATES[f"{THEIR_NAME.get(name, name)}/{warmup}"], rel=1e-12)


def test_a_share_of_the_steps_is_warm_up():
    assert schedule("linear", warmup_ratio=0.1).warmup == 4
    assert schedule("linear", warmup_ratio=0.11).warmup == 5
    assert schedule("linear", warmup_ratio=0.1, warmup_steps=9).warmup == 9


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_rates_fall_to_the_least_and_stay_there(name):
    found = schedule(name, learning_rate=2.0, min_lr_ratio=0.25)
    assert found.learning_rate(STEPS) == pytest.approx(0.5)
    assert found.learning_rate(STEPS + 10) == pytest.approx(0.5)
    assert max(map(found.learning_rate, range(STEPS))) == pytest.approx(2.0)
