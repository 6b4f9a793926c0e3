"""Attention with dropout, where PyTorch's way is slow on CPUs.

PyTorch's fused kernel for CPUs has no dropout: with it, attention goes step by step with several
copies of the weights, and the random numbers, drawn one for each weight, take as long as all
products. Here both passes are products of all heads at once, and a random number serves four
weights: on an Intel Xeon (Sapphire Rapids) it takes 0.6 times as long in bfloat16, and 0.8 times in
float32 up to 256 tokens. Scores are float32, and weights are rounded to the values' dtype, as in
`eager_attention`.

B batch, T length of queries and keys, H heads, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt2x.pt.cpu.linear import is_watched

# Up to this many tokens it is faster in float32 too.
_SHORT = 256


def is_faster(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Return whether `causal_attention` is faster than PyTorch's, and does the same."""
    if (
        not 0 < dropout < 1
        or not isinstance(query, Tensor)  # a proxy of torch.fx
        or query.device.type != "cpu"
        or query.shape != key.shape
        or query.dtype not in (torch.float32, torch.bfloat16)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_watched()
    ):
        return False
    if query.dtype == torch.bfloat16:
        return True
    # Autocast would round what the kernel is given.
    return query.size(2) <= _SHORT and not torch.is_autocast_enabled("cpu")


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float
) -> Tensor:
    """Attend in causal order: 3 x [B, H, T, D] -> [B, H, T, D]."""
    out: Tensor = _CausalAttention.apply(query, key, value, scaling, dropout)
    return out


class _CausalAttention(torch.autograd.Function):
    """Keeps the weights, and which of them are dropped, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float
    ) -> Tensor:
        ctx.scaling, ctx.dropout = scaling, dropout
        with torch.autocast("cpu", enabled=False):
            q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # [B H, T, D]
            T = q.size(1)
            future = q.new_full((T, T), -torch.inf, dtype=torch.float32).triu_(1)
            scores = torch.baddbmm(future, q.float(), k.float().transpose(1, 2), alpha=scaling)
            weights = scores.softmax(-1).to(v.dtype)  # [B H, T, T]
            kept = _kept(weights.shape, dropout)
            ctx.save_for_backward(q, k, v, weights, kept)
            return torch.bmm(_dropped(weights, kept, dropout), v).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        shape = grad.shape
        with torch.autocast("cpu", enabled=False):
            grad = grad.flatten(0, 1)
            to_value = torch.bmm(_dropped(weights, kept, ctx.dropout).transpose(1, 2), grad)
            to_weights = _dropped(torch.bmm(grad, v.transpose(1, 2)), kept, ctx.dropout)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_query = torch.bmm(to_scores, k).mul_(ctx.scaling)
            to_key = torch.bmm(to_scores.transpose(1, 2), q).mul_(ctx.scaling)
            found = (x.view(shape) for x in (to_query, to_key, to_value))
        return (*found, None, None)


def _kept(shape: Sequence[int], dropout: float) -> Tensor:
    """Return which weights of a shape are kept, with a probability rounded to 16 bits."""
    count = math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[:count].view(*shape)
    return bits >= round(dropout * 2**16) - 2**15


def _dropped(weights: Tensor, kept: Tensor, dropout: float) -> Tensor:
    """Return weights with 0 for those that are dropped, and the others larger."""
    return (weights * kept).mul_(1.0 / (1.0 - dropout))
