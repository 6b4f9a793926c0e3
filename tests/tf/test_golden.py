"""Agreement with transformers 4.57.6 (PyTorch), within 1e-4 in float32."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.weights.table import TENSORFLOW
from support.golden_data import GoldenCase, load_case
from support.golden_forward import GRADIENT_CASES, GROUPS, cases_of, check_gradients, check_outputs
from support.tf_models import golden_model

# What transformers' TensorFlow models compute, where they agree with PyTorch's.
OWN_GROUPS = ["plain/tensorflow", "double_heads/tensorflow", "sequence_classification/tensorflow"]
CASES = cases_of(*GROUPS, *OWN_GROUPS)
TOLERANCE = 1e-4


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
    check_outputs(case, shared_model(*_model_of(case)), np.asarray, np.asarray, TOLERANCE)


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_agree(name: str):
    case = load_case(name)
    model = golden_model(case)
    variables = dict(model._canonical_variables())
    with tf.GradientTape() as tape:
        loss = model(case.inputs).loss
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")

    def gradient_of(name: str) -> np.ndarray:
        gradient = tf.convert_to_tensor(gradients[name])
        return TENSORFLOW.layout(name).to_canonical(np.asarray(gradient))

    check_gradients(case, gradient_of, TOLERANCE)
