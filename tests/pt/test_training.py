"""PyTorch's training engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2x.pt.fused_loss import linear_cross_entropy
from support.contract.training import TrainingContract


class TestTraining(TrainingContract):
    backend = "pt"

    def check_weights(self, engine, wte):
        found = engine.model.transformer.wte.weight.detach().numpy()
        np.testing.assert_allclose(found, wte, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 255, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fused_loss_is_that_of_all_logits(count, dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 8, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(50, (count,), generator=generator)
    targets[1::3] = -100
    losses = [
        torch.nn.functional.cross_entropy((hidden @ weight.T).float(), targets),
        linear_cross_entropy(hidden, weight, targets),
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(losses[0] * 3, [hidden, weight])
    found = torch.autograd.grad(losses[1] * 3, [hidden, weight])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
