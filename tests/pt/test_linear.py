"""Products with weights: every kernel gives the same, in whatever order the weight lies."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gpt2x import pt
from gpt2x.pt.linear import LARGE, Linear, empty_weight, linear
from gpt2x.pt.model import Conv1D
from pt_models import tiny_config

N_IN, N_OUT = 520, 523  # large together; the parts of the product do not come out even


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(N_IN,), (1, N_IN), (1, 1, N_IN), (2, 3, N_IN)])
def test_agrees_with_torch(shape: tuple[int, ...], bias: bool, dtype: torch.dtype):
    assert N_IN * N_OUT >= LARGE
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(N_OUT, N_IN, dtype=dtype)
    b = torch.randn(N_OUT, dtype=dtype) if bias else None
    expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
    tolerance = 1e-4 if dtype == torch.float32 else 0.5
    for each in (weight, weight.t().contiguous().t()):
        out = linear(x, each, b)
        assert out.shape == expected.shape
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=0.01, atol=tolerance)


def test_gradients():
    layer, x = Linear(N_IN, N_OUT), torch.randn(1, 1, N_IN, requires_grad=True)
    layer(x).square().sum().backward()
    mine = [x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    x.grad = layer.weight.grad = layer.bias.grad = None
    F.linear(x, layer.weight, layer.bias).square().sum().backward()
    theirs = [x.grad, layer.weight.grad, layer.bias.grad]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_order_in_memory_follows_the_size():
    assert empty_weight(8, 9).is_contiguous()
    large = empty_weight(N_IN, N_OUT)
    assert large.shape == (N_IN, N_OUT)
    assert large.t().is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_weights_keep_their_order(dtype: torch.dtype, tmp_path: Path):
    """Through loading, conversion and copies; files and state dicts have transformers' shapes."""
    model = pt.GPT2LMHeadModel(tiny_config(n_embd=312, n_layer=1)).eval()
    weight = model.transformer.h[0].attn.c_attn.weight
    assert weight.shape == (312, 936)
    model.save_pretrained(tmp_path)
    loaded = pt.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=dtype)
    restored = pt.GPT2LMHeadModel(model.config).to(dtype)
    restored.load_state_dict(loaded.state_dict())
    for each in (loaded, restored, copy.deepcopy(loaded), copy.deepcopy(model).to(dtype)):
        other = each.transformer.h[0].attn.c_attn.weight
        assert other.t().is_contiguous()
        torch.testing.assert_close(other, weight.to(dtype), rtol=0, atol=0)


def test_layers_of_both_kinds_agree():
    """Conv1D is a linear layer whose weight is transposed."""
    conv, layer = Conv1D(N_OUT, N_IN), Linear(N_IN, N_OUT)
    with torch.no_grad():
        conv.weight.copy_(layer.weight.t())
        conv.bias.copy_(layer.bias)
    for rows in (1, 3):
        x = torch.randn(rows, 1, N_IN)
        torch.testing.assert_close(conv(x), layer(x), rtol=1e-4, atol=1e-5)
