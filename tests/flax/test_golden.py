"""Agreement with transformers 4.57.6 (PyTorch), within 1e-4 in float32."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gpt2x.flax.parameters import flatten
from gpt2x.weights.table import FLAX
from support.flax_models import golden_model
from support.golden_data import load_case
from support.golden_forward import GRADIENT_CASES, GROUPS, cases_of, check_gradients, check_outputs

# What transformers' Flax models compute, where they agree with PyTorch's; its TensorFlow models
# have heads besides.
OWN_GROUPS = ["plain/flax", "double_heads/tensorflow", "sequence_classification/tensorflow"]
TOLERANCE = 1e-4


# One case switches off the projection that its folder has weights for.
@pytest.mark.filterwarnings("ignore:Some weights .* were not used:UserWarning")
@pytest.mark.parametrize("name", cases_of(*GROUPS, *OWN_GROUPS))
def test_outputs_agree(name: str):
    case = load_case(name)
    check_outputs(case, golden_model(case), np.asarray, np.asarray, TOLERANCE)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_agree(name: str, checkpointing: bool):
    case = load_case(name)
    model = golden_model(case)
    if checkpointing:
        model.enable_gradient_checkpointing()
    gradient = jax.grad(lambda params: model(**case.inputs, params=params).loss)
    gradients = dict(flatten(jax.jit(gradient)(model.params)))

    def gradient_of(name: str) -> np.ndarray:
        return FLAX.layout(name).to_canonical(np.asarray(gradients[model._path(name)]))

    check_gradients(case, gradient_of, TOLERANCE)
