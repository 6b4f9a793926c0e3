"""The products with weights: every kernel gives the same numbers, and derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from gpt2x.pt.cpu import linear as module
from gpt2x.pt.cpu.linear import Linear, linear
from gpt2x.pt.model import Conv1D


@pytest.fixture(params=[False, True], ids=["onednn", "mkl"])
def _everything_is_large(monkeypatch, request):
    """Take the kernels for large weights, those of Intel's processors and of others."""
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "_PREFERS_MKL", request.param)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("shape", [(1, 1), (1,), (3, 1), (2, 5), (0, 4), (9, 8)])
@pytest.mark.parametrize(("n_in", "n_out"), [(24, 5), (32, 37), (32, 256), (24, 600)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_those_of_torch(shape, n_out, n_in, with_bias, dtype):
    x = torch.randn(*shape, n_in, dtype=dtype)
    weight = torch.randn(n_out, n_in, dtype=dtype)
    bias = torch.randn(n_out, dtype=dtype) if with_bias else None
    expected = F.linear(x, weight, bias)
    # As a layer's weight lies, as Conv1D's does, and as a user's may.
    for given in (weight, weight.t().contiguous().t(), weight.repeat(1, 2)[:, :n_in]):
        with torch.no_grad():
            found = linear(x, given, bias)
        assert found.shape == expected.shape
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, -1:],  # what a language model's head sees
        lambda x: x[0].t()[:8].t(),
        lambda x: x[0, :1],
        lambda x: x[:1, :1].expand(4, 3, 8),
        lambda x: x[0].flip(0),
    ],
)
def test_inputs_may_be_views(view):
    x, weight = view(torch.randn(5, 7, 8)), torch.randn(20, 8)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("rows", [1, 3])
def test_derivatives_are_those_of_torch(rows):
    layer, plain = Linear(8, 20), torch.nn.Linear(8, 20)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(rows, 8)
    for each in (layer, plain):
        each(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


@pytest.mark.usefixtures("_everything_is_large")
def test_autocast_chooses_the_dtype():
    layer = Linear(8, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 8)).dtype == torch.bfloat16
        assert layer(torch.randn(3, 8)).dtype == torch.bfloat16


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layer", [Linear(32, 300), Conv1D(300, 32)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_forward_mode_derivatives(layer, rows):
    for parameter in layer.parameters():
        parameter.normal_()
    x, direction = torch.randn(rows, 32), torch.randn(rows, 32)
    weights = dict(layer.named_parameters())
    directions = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def run(weights, x):
        return torch.func.functional_call(layer, weights, (x,))

    _, found = torch.func.jvp(run, (weights, x), (directions, direction))
    expected = run({**weights, "bias": 0 * weights["bias"]}, direction) + run(directions, x)
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(x, direction))
        alone = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(alone, layer(direction) - layer.bias)
    many = torch.func.vmap(layer)(torch.stack([x, direction]))
    torch.testing.assert_close(many, torch.stack([layer(x), layer(direction)]))


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", [Linear(24, 300), Conv1D(300, 24)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("rows", [1, 3])
def test_operations_are_counted(layer, rows, dtype):
    layer, x = layer.to(dtype), torch.randn(rows, 24, dtype=dtype)
    for has_grad in (True, False):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(has_grad):
            layer(x)
        assert counter.get_total_flops() == 2 * rows * 24 * 300


def test_weights_are_contiguous():
    weight = Conv1D(1024, 512).weight
    assert weight.shape == (512, 1024)
    assert weight.is_contiguous()


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
@torch.no_grad()
def test_products_can_be_traced():
    x, other, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(5, 8)
    traced = torch.jit.trace(lambda x: linear(x, weight), x)
    torch.testing.assert_close(traced(other), F.linear(other, weight))


@pytest.mark.parametrize("layer", [Linear(6, 4), Conv1D(4, 6)], ids=["Linear", "Conv1D"])
def test_layers_can_be_traced_symbolically(layer):
    x = torch.randn(3, 6)
    with torch.no_grad():
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("shape", [(1, 7), (2, 3), (4, 12), (0, 3)])
def test_inputs_of_another_size_raise_as_in_torch(shape):
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(torch.randn(shape), torch.randn(4, 6))
