"""Attention with dropout on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt2x.pt.attention import sdpa_attention
from gpt2x.pt.cpu import attention

B, H, T, D = 2, 3, 17, 8


def inputs(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(B, T, H, D, generator=generator).to(dtype) for _ in range(4)]
    return [x.transpose(1, 2).requires_grad_() for x in drawn]


def expected(query: Tensor, key: Tensor, value: Tensor, kept: Tensor) -> Tensor:
    """Attend in float64 with these weights kept."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(-1, -2) * 0.5
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return (weights * kept.view(B, H, T, T) / 0.7) @ value


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_are_those_of_the_kept_weights(dtype, close):
    query, key, value, grad = inputs(dtype)
    torch.manual_seed(5)
    kept = attention._kept((B * H, T, T), 0.3)
    wanted = expected(query, key, value, kept)
    gradients = torch.autograd.grad(wanted, [query, key, value], grad.double())
    torch.manual_seed(5)
    options = {"is_causal": True, "scaling": 0.5, "dropout": 0.3}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert attention.is_faster(query, key, 0.3)
        found = sdpa_attention(query, key, value, None, **options)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=close, atol=close)
    found_gradients = torch.autograd.grad(found, [query, key, value], grad)
    torch.testing.assert_close(found_gradients, gradients, rtol=close, atol=close)


def test_as_many_are_dropped_as_asked_for():
    torch.manual_seed(0)
    for dropout in (0.1, 0.5, 0.99):
        kept = attention._kept((50, 100, 101), dropout)
        assert kept.float().mean().item() == pytest.approx(1 - dropout, abs=3e-3)


def test_another_way_is_taken_without_dropout_and_by_compilers():
    query, key, _, _ = inputs(torch.float32)
    assert not attention.is_faster(query, key, 0.0)
    assert not attention.is_faster(query, key, 1.0)
    assert not attention.is_faster(query, key[:, :, :5], 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        assert not attention.is_faster(query, key, 0.3)
