"""Flax against PyTorch: the same numbers within 1e-4, the same texts, the same errors."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import gpt2x.flax  # noqa: E402
from gpt2x.flax.parameters import flatten  # noqa: E402
from gpt2x.weights.table import FLAX, Head  # noqa: E402
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
    """A PyTorch model of random weights, and what Flax loads of it."""
    reference = save_reference(head, folder, **fields)
    return reference, getattr(gpt2x.flax, f"FlaxGPT2{head.value}").from_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(Head.LM, tmp_path_factory.mktemp("model"))


# A head only reads what the body returns, so every flag is tried with the language model alone.
CASES = [(head, "plain") for head in Head] + [
    (Head.LM, flags) for flags in FLAGS if flags != "plain"
]


@pytest.mark.parametrize(
    ("head", "flags"), CASES, ids=[f"{head.value}-{flags}" for head, flags in CASES]
)
def test_every_output_agrees(head, flags, tmp_path):
    assert_outputs_agree(*pair(head, tmp_path, **FLAGS[flags]), head, flags)


def test_gradients_agree(tmp_path):
    reference, model = pair(Head.LM, tmp_path)
    # Padded in front, and labels on the padding too.
    inputs = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}
    reference(**tensors(inputs)).loss.backward()
    gradients = jax.grad(lambda params: model(**inputs, params=params).loss)(model.params)
    gradients = {"/".join(path): array for path, array in flatten(gradients)}
    for name, parameter in reference.named_parameters():
        canonical = name.removeprefix("transformer.")
        gradient = FLAX.layout(canonical).to_canonical(np.asarray(gradients[FLAX.spell(canonical)]))
        np.testing.assert_allclose(
            gradient, parameter.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("name", GENERATION)
def test_the_same_texts(name, models):
    assert_texts_agree(*models, **GENERATION[name])


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_the_same_errors(name, models):
    assert_errors_agree(*models, BAD_INPUTS[name])
