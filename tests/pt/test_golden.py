"""Agreement with transformers 4.57.6, within 1e-5 in float32."""

from __future__ import annotations

import pytest
import torch

from support.golden_data import load_case
from support.golden_forward import GRADIENT_CASES, GROUPS, cases_of, check_gradients, check_outputs
from support.pt_models import golden_model, tensors

TOLERANCE = 1e-5


# One case switches off the projection that its folder has weights for.
@pytest.mark.filterwarnings("ignore:Some weights .* were not used:UserWarning")
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", cases_of(*GROUPS))
def test_outputs_agree(name: str, implementation: str):
    case = load_case(name)
    model = golden_model(case, attn_implementation=implementation)
    check_outputs(case, model, torch.tensor, lambda tensor: tensor.detach().numpy(), TOLERANCE)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_agree(name: str, checkpointing: bool):
    case = load_case(name)
    model = golden_model(case)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    model(**tensors(case.inputs)).loss.backward()
    parameters = dict(model.named_parameters())
    check_gradients(case, lambda key: parameters[model._spell(key)].grad.numpy(), TOLERANCE)
