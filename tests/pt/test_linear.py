"""The products with weights: every kernel gives the same numbers, and derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gpt2x.pt import linear as module
from gpt2x.pt.linear import Linear, empty_weight, linear


@pytest.fixture
def _everything_is_large(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("shape", [(1, 1), (1,), (3, 1), (2, 5), (0, 4), (7,)])
@pytest.mark.parametrize("n_out", [5, 16, 37, 64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_those_of_torch(shape, n_out, with_bias, dtype):
    x = torch.randn(*shape, 24, dtype=dtype)
    weight = torch.randn(n_out, 24, dtype=dtype)
    bias = torch.randn(n_out, dtype=dtype) if with_bias else None
    with torch.no_grad():
        found = linear(x, weight, bias)
        found_strided = linear(x, weight.t().contiguous().t(), bias)
    expected = F.linear(x, weight, bias)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_strided, expected)


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


def test_large_weights_lie_as_they_are_read():
    small, large = empty_weight(16, 32), empty_weight(512, 1024)
    assert (small.shape, large.shape) == ((16, 32), (512, 1024))
    assert small.is_contiguous()
    assert large.t().is_contiguous()


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
@torch.no_grad()
def test_products_can_be_traced():
    x, other, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(5, 8)
    traced = torch.jit.trace(lambda x: linear(x, weight), x)
    torch.testing.assert_close(traced(other), F.linear(other, weight))
