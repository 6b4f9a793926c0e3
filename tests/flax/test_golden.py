"""Agreement with transformers 4.57.6 (PyTorch), within 1e-4 in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from flax_models import golden_model
from golden_data import GoldenCase, case_names, load_case
from gpt2x.flax.parameters import flatten
from gpt2x.weights import FLAX

GROUPS = [
    "plain/forward",
    "plain/past",
    "plain/flags",
    "plain/activations",
    "plain/loss",
    "untied/forward",
    "untied/flags",
    "untied/loss",
    "cross_attention/forward",
    "double_heads/heads",
    "double_heads_hidden/heads",
    "regression/heads",
    "sequence_classification/heads",
    "token_classification/heads",
    "question_answering/heads",
    # What transformers' Flax models compute, where they agree with PyTorch's.
    "plain/flax",
    "double_heads/tensorflow",
    "sequence_classification/tensorflow",
]
CASES = [name for group in GROUPS for name in case_names(group)]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


# Batch and token axes of what has an entry for every token.
TOKEN_AXES = {
    "last_hidden_state": (0, 1),
    "logits": (0, 1),
    "start_logits": (0, 1),
    "end_logits": (0, 1),
    "hidden_states": (1, 2),
    "attentions": (1, 3),
    "past_keys": (1, 3),
    "past_values": (1, 3),
}


def real_tokens(case: GoldenCase, name: str, array: np.ndarray) -> np.ndarray:
    """Leave out padding, where what is computed has no meaning."""
    mask = case.inputs.get("attention_mask")
    pooled = case.settings["class"].endswith("SequenceClassification") and name == "logits"
    if mask is None or mask.ndim == 4 or name not in TOKEN_AXES or pooled:
        return array
    axes = TOKEN_AXES[name] if mask.ndim == 2 else tuple(range(mask.ndim))
    tokens_first = np.moveaxis(array, axes, range(mask.ndim))
    mask = mask[..., -tokens_first.shape[mask.ndim - 1] :]  # of past and new tokens, the new ones
    return tokens_first[mask != 0]


def assert_agrees(case: GoldenCase, name: str, ours: Array) -> None:
    theirs = case.outputs[name]
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(
        real_tokens(case, name, np.asarray(ours)),
        real_tokens(case, name, theirs),
        **TOLERANCE,
        err_msg=name,
    )


# One case switches off the projection that its folder has weights for.
@pytest.mark.filterwarnings("ignore:Some weights .* were not used:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_outputs_agree(name: str):
    case = load_case(name)
    model = golden_model(case)
    inputs = dict(case.inputs)
    if "past_keys" in inputs:
        keys, values = inputs.pop("past_keys"), inputs.pop("past_values")
        inputs["past_key_values"] = tuple(zip(keys, values, strict=True))
    output = model(**inputs, **case.settings.get("call", {}))

    for key in case.outputs:
        if key in ("past_keys", "past_values", "cross_keys", "cross_values"):
            index = ("past_keys", "past_values", "cross_keys", "cross_values").index(key)
            past = output.past_key_values
            past = past if isinstance(past, tuple) else past.to_tuple()
            assert_agrees(case, key, jnp.stack([layer[index] for layer in past]))
        elif key.startswith("gradients/"):
            continue
        elif key in ("hidden_states", "attentions", "cross_attentions"):
            assert_agrees(case, key, jnp.stack(output[key]))
        else:
            assert_agrees(case, key, output[key])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["plain/loss/labels_ignored", "untied/loss/labels_ignored"])
def test_gradients_agree(name: str, checkpointing: bool):
    case = load_case(name)
    model = golden_model(case)
    if checkpointing:
        model.enable_gradient_checkpointing()
    names = [key.removeprefix("gradients/") for key in case.outputs if "gradients/" in key]
    assert names
    gradient = jax.grad(lambda params: model(**case.inputs, params=params).loss)
    gradients = jax.jit(gradient)(model.params)
    gradients = dict(flatten(gradients))
    for name in names:
        gradient = FLAX.layout(name).to_canonical(np.asarray(gradients[model._path(name)]))
        theirs = case.outputs[f"gradients/{name}"]
        np.testing.assert_allclose(gradient, theirs, **TOLERANCE, err_msg=name)
