"""Gradient checkpointing: equal gradients, and blocks that run twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf.checkpointing import seed_generators
from support.tf_models import random_ids, tiny_model


def gradients(model: Any, **inputs: Any) -> list[np.ndarray]:
    """Return the gradients of one training step, dropout drawn from the same seeds."""
    for number, generator in enumerate(seed_generators(model)):
        generator.state.assign([5, number])
    with tf.GradientTape() as tape:
        loss = model(**inputs, training=True).loss
    found = tape.gradient(loss, model.trainable_variables)
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]


@pytest.mark.parametrize("cross", [False, True])
def test_checkpointing_gives_equal_gradients_and_runs_blocks_twice(cross: bool, monkeypatch: Any):
    model = tiny_model(add_cross_attention=cross)
    ids = random_ids(2, 6)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": mask}
    if cross:
        inputs["encoder_hidden_states"] = tf.random.stateless_normal([2, 4, 24], [0, 0])
    expected = gradients(model, **inputs)

    calls = []
    mlp = model.transformer.h[0].mlp
    call = mlp.call
    monkeypatch.setattr(mlp, "call", lambda *args: calls.append(1) or call(*args))
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    for one, other in zip(gradients(model, **inputs), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert len(calls) == 2
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_old_configs_switch_checkpointing_on():
    assert tiny_model(gradient_checkpointing=True).is_gradient_checkpointing
    assert not tiny_model(gradient_checkpointing=False).is_gradient_checkpointing


def test_outputs_are_those_of_training_without_a_cache():
    model = tiny_model(n_layer=1)
    model.gradient_checkpointing_enable()
    ids = random_ids(2, 6)
    options = {"use_cache": True, "output_attentions": True}
    output = model(ids, **options, training=True)
    assert output.past_key_values is None
    assert len(output.attentions) == 1
    past = model(ids, **options).past_key_values
    assert past.length == 6
    with pytest.raises(InvalidInputError, match="while gradient checkpointing trains"):
        model(ids, past_key_values=past, training=True)
