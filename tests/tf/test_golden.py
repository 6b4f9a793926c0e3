"""Agreement with transformers 4.57.6 (PyTorch), within 1e-4 in float32."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from golden_data import GoldenCase, case_names, load_case
from gpt2x.weights import TENSORFLOW
from tf_models import golden_model

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
    # What transformers' TensorFlow models compute, where they agree with PyTorch's.
    "plain/tensorflow",
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


def assert_agrees(case: GoldenCase, name: str, ours: tf.Tensor) -> None:
    theirs = case.outputs[name]
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(
        real_tokens(case, name, np.asarray(ours)),
        real_tokens(case, name, theirs),
        **TOLERANCE,
        err_msg=name,
    )


@functools.cache
def shared_model(folder: Path, kind: str, config: str) -> Any:
    """Load a model once for all cases that differ in their inputs alone."""
    case = next(
        load_case(name) for name in CASES if _model_of(load_case(name)) == (folder, kind, config)
    )
    return golden_model(case)


def _model_of(case: GoldenCase) -> tuple[Path, str, str]:
    return case.folder, case.settings["class"], json.dumps(case.config, sort_keys=True)


# One case switches off the projection that its folder has weights for.
@pytest.mark.filterwarnings("ignore:Some weights .* were not used:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_outputs_agree(name: str):
    case = load_case(name)
    model = shared_model(*_model_of(case))
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
            assert_agrees(case, key, tf.stack([layer[index] for layer in past]))
        elif key.startswith("gradients/"):
            continue
        elif key in ("hidden_states", "attentions", "cross_attentions"):
            assert_agrees(case, key, tf.stack(output[key]))
        else:
            assert_agrees(case, key, output[key])


@pytest.mark.parametrize("name", ["plain/loss/labels_ignored", "untied/loss/labels_ignored"])
def test_gradients_agree(name: str):
    case = load_case(name)
    model = golden_model(case)
    variables = dict(model._canonical_variables())
    compared = [key for key in case.outputs if key.startswith("gradients/")]
    assert compared
    watched = [variables[key.removeprefix("gradients/")] for key in compared]
    with tf.GradientTape() as tape:
        loss = model(case.inputs).loss
    for key, gradient in zip(compared, tape.gradient(loss, watched), strict=True):
        layout = TENSORFLOW.layout(key.removeprefix("gradients/"))
        gradient = layout.to_canonical(np.asarray(tf.convert_to_tensor(gradient)))
        np.testing.assert_allclose(gradient, case.outputs[key], **TOLERANCE, err_msg=key)
