"""TensorFlow against PyTorch: the same numbers within 1e-4, the same texts, the same errors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")

import gpt2x.tf  # noqa: E402
from gpt2x.weights.table import TENSORFLOW, Head  # noqa: E402
from support.parity_models import (  # noqa: E402
    BAD_INPUTS,
    FLAGS,
    GENERATION,
    IDS,
    MASK,
    assert_errors_agree,
    assert_outputs_agree,
    assert_texts_agree,
    save_reference,
    tensors,
)


def pair(head, folder, **fields):
    """A PyTorch model of random weights, and what TensorFlow loads of it."""
    reference = save_reference(head, folder, **fields)
    return reference, getattr(gpt2x.tf, f"TFGPT2{head.value}").from_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(Head.LM, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("head", list(Head), ids=lambda head: head.value)
def test_every_output_agrees(head, flags, tmp_path):
    assert_outputs_agree(*pair(head, tmp_path, **FLAGS[flags]), head, flags)


def test_gradients_agree(tmp_path):
    reference, model = pair(Head.LM, tmp_path)
    # Padded in front, and labels on the padding too.
    inputs = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}
    reference(**tensors(inputs)).loss.backward()
    with tf.GradientTape() as tape:
        loss = model(**inputs).loss
    variables = dict(model._canonical_variables())
    gradients = tape.gradient(loss, list(variables.values()))
    expected = dict(reference.named_parameters())
    for name, gradient in zip(variables, gradients, strict=True):
        gradient = tf.convert_to_tensor(gradient).numpy()
        key = "lm_head.weight" if name == "lm_head.weight" else f"transformer.{name}"
        np.testing.assert_allclose(
            TENSORFLOW.layout(name).to_canonical(gradient),
            expected[key].grad.numpy(),
            rtol=1e-4,
            atol=1e-4,
            err_msg=name,
        )


@pytest.mark.parametrize("name", GENERATION)
def test_the_same_texts(name, models):
    assert_texts_agree(*models, **GENERATION[name])


def test_the_same_texts_up_to_the_last_position(models):
    reference, model = models
    options = {"do_sample": True, "seed": 4, "max_length": 33, "eos_token_id": None}
    expected = reference.generate(torch.tensor(IDS[:1]), **options).numpy()
    assert expected.shape == (1, 33)
    np.testing.assert_array_equal(model.generate(IDS[:1], **options), expected)


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_the_same_errors(name, models):
    assert_errors_agree(*models, BAD_INPUTS[name], tf.constant)
