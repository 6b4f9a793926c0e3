"""The loss of a language model without the logits of a whole batch.

Logits of GPT-2's vocabulary take 200 KB a token. A chunk of tokens at a time, they are computed,
compared with the targets and turned into gradients at once, so that none of them is kept for the
backward pass and no second copy is made.

N tokens, E n_embd, V vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt2x.models.checks import IGNORE_INDEX

# Tokens at a time: 50 MB of float32 logits for GPT-2's vocabulary.
_CHUNK = 256


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of targets under the logits ``hidden @ weight.T``, float32.

    hidden: [N, E]; weight: [V, E]; targets: int [N], of which `IGNORE_INDEX` is left out. NaN
    without any target.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients along with the loss, while a chunk's logits are there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, targets, dtype, needs_hidden, needs_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight = (None if g is None else g.mul_(grad) for g in ctx.gradients)
        ctx.gradients = None
        return hidden, weight, None


def _forward(
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    needs_hidden: bool,
    needs_weight: bool,
) -> Tensor:
    computed = weight.to(dtype)  # [V, E]
    count = (targets != IGNORE_INDEX).sum()
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    to_hidden = torch.empty_like(hidden) if needs_hidden else None
    to_weight = torch.zeros_like(weight) if needs_weight else None
    for first in range(0, len(hidden), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        some = hidden[chunk].to(dtype)  # [n, E]
        scores = (some @ computed.T).float()  # [n, V]
        kept = targets[chunk] != IGNORE_INDEX
        index = torch.where(kept, targets[chunk], 0)[:, None]
        totals = scores.logsumexp(-1)
        losses = totals - scores.gather(1, index)[:, 0]
        loss += torch.where(kept, losses, 0).sum()
        if to_hidden is None and to_weight is None:
            continue
        # The gradient of the mean: softmax minus one at the target, over the count.
        gradient = scores.sub_(totals[:, None]).exp_()
        gradient.scatter_add_(1, index, -torch.ones_like(gradient[:, :1]))
        gradient.mul_((kept / count)[:, None])
        gradient = gradient.to(dtype)
        if to_hidden is not None:
            to_hidden[chunk] = gradient @ computed
        if to_weight is not None:
            to_weight.addmm_(gradient.T.to(to_weight.dtype), some.to(to_weight.dtype))
    ctx.gradients = to_hidden, to_weight
    return loss / count
