"""The optimizer of transformers' TensorFlow scripts: its arguments, and the weights it gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf import AdamWeightDecay, WarmUp, create_optimizer
from support.tf_models import tiny_model

RATE, DECAY = 0.1, 0.5
STEPS = 3


def test_schedule_warms_up_and_falls():
    optimizer, schedule = create_optimizer(
        1.0, num_train_steps=30, num_warmup_steps=10, min_lr_ratio=0.1
    )
    rates = [float(schedule(step)) for step in (0, 5, 10, 20, 30)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.55, 0.1], rtol=1e-5)
    assert type(optimizer) is keras.optimizers.Adam
    copy = WarmUp.from_config(schedule.get_config())
    assert float(copy(20)) == float(schedule(20))


def test_optimizer_needs_a_warm_up_that_ends():
    with pytest.raises(InvalidInputError, match="num_warmup_steps must be from 0 to"):
        create_optimizer(1.0, 10, 10)


def adam(weight, gradients, rates, decay, epsilon=1e-7):
    """What transformers 4.57's class makes of a weight."""
    first = second = np.zeros_like(weight, np.float64)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        weight = weight * (1 - rate * decay)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight = weight - rate * first / (np.sqrt(second) + epsilon)
    return weight


def is_bias(name):
    return name.endswith("/bias")


def is_norm(name):
    return "/ln_" in name


CASES = {
    "positional": (lambda: AdamWeightDecay(RATE, weight_decay_rate=DECAY), lambda name: True),
    "excluded": (
        lambda: AdamWeightDecay(
            learning_rate=RATE,
            weight_decay_rate=DECAY,
            exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
        ),
        lambda name: not is_bias(name),  # GPT-2's layer norms bear neither name
    ),
    "included all the same": (
        lambda: AdamWeightDecay(
            lr=RATE,
            weight_decay_rate=DECAY,
            exclude_from_weight_decay=["ln_", "bias:0"],
            include_in_weight_decay=[r"ln_[a-z]/gamma$"],
        ),
        lambda name: not (is_bias(name) or is_norm(name)) or name.endswith("ln_f/gamma"),
    ),
    "falling": (
        lambda: AdamWeightDecay(RATE, decay=0.5, weight_decay_rate=DECAY),
        lambda name: True,
    ),
    "created": (
        lambda: create_optimizer(RATE, 100, 0, adam_epsilon=1e-7, weight_decay_rate=DECAY)[0],
        lambda name: not is_bias(name),
    ),
    "no decay": (lambda: AdamWeightDecay(RATE), lambda name: False),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_transformers(case, again):
    make, decays = CASES[case]
    optimizer = make()
    if again:
        optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    weights = tiny_model(n_layer=1).trainable_weights
    rng = np.random.default_rng(0)
    gradients = [[rng.normal(size=w.shape) for w in weights] for _ in range(STEPS)]
    rates = {
        "falling": [RATE / (1 + 0.5 * step) for step in range(STEPS)],
        "created": [RATE * (1 - step / 100) for step in range(STEPS)],
    }.get(case, [RATE] * STEPS)
    expected = [
        adam(w.numpy(), [g[i] for g in gradients], rates, DECAY if decays(w.path) else 0.0)
        for i, w in enumerate(weights)
    ]
    for step in gradients:
        tensors = [tf.constant(gradient, tf.float32) for gradient in step]
        optimizer.apply_gradients(zip(tensors, weights, strict=True))
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5, err_msg=weight.path)


def test_what_the_optimizer_does_not_take():
    with pytest.raises(InvalidInputError, match="Did you mean 'weight_decay_rate'"):
        AdamWeightDecay(weight_decay=0.1)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    with pytest.raises(InvalidInputError, match="decay= needs a learning rate that is a number"):
        AdamWeightDecay(schedule, decay=0.1)
