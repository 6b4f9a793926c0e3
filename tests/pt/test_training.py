"""PyTorch's training engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2x.errors import InvalidInputError
from gpt2x.pt.fused_loss import linear_cross_entropy
from gpt2x.train.engine import EngineOptions
from support.contract.training import IDS, TrainingContract


class TestTraining(TrainingContract):
    backend = "pt"

    def check_weights(self, engine, wte):
        found = engine.model.transformer.wte.weight.detach().numpy()
        np.testing.assert_allclose(found, wte, rtol=1e-4, atol=1e-5)

    # Dynamo makes an object of a class that it warns of.
    @pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")
    def test_a_compiled_loss_is_the_same_and_compiled_once(self):
        options = EngineOptions(bf16=True, gradient_checkpointing=True, same_dropout=True)
        expected = self.losses(self.engine(options=options), 2)
        torch._dynamo.reset()
        counters.clear()
        engine = self.engine(options=options._replace(torch_compile="aot_eager"))
        # Two micro-batches each.
        assert self.losses(engine, 2) == pytest.approx(expected, rel=1e-5)
        engine.evaluate({"input_ids": IDS, "labels": IDS}, logits=False)
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]
        assert "exp_avg.h.0.attn.c_attn.weight" in engine.state()

    def test_an_unknown_compiler_is_refused(self):
        with pytest.raises(InvalidInputError, match=r"torch_compile_backend.*inductor"):
            self.engine(options=EngineOptions(torch_compile="inducter"))


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


class _Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return found


def test_the_logits_of_a_whole_batch_are_never_there():
    hidden, weight = torch.randn(600, 8).requires_grad_(), torch.randn(50, 8).requires_grad_()
    targets = torch.randint(50, (600,))
    with _Largest() as largest:
        linear_cross_entropy(hidden, weight, targets).backward()
    assert largest.elements < 300 * 50
    with _Largest() as largest:
        torch.nn.functional.cross_entropy(hidden @ weight.T, targets).backward()
    assert largest.elements == 600 * 50
