"""Attention implementations, the registry that names them, and the masks they take.

B batch, T query length, S key length, H heads, D head_dim. `gpt2x.models.attention` says how an
implementation is called, and what the masks look like.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2x.models.attention import AttentionRegistry
from gpt2x.pt.cpu import attention as cpu


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scaling: float,
    dropout: float | Callable[[Tensor], Tensor],
    head_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend step by step, and return the attention weights [B, H, T, S] as well.

    Scores are float32 (or wider) from the product on, since they can exceed float16.
    `dropout` is a rate, or a function that drops weights. `head_mask` (broadcast to [B, H, T, S])
    multiplies them.
    """
    wide = score_dtype(query.dtype)
    with without_autocast(query.device):
        scores = query.to(wide) @ key.to(wide).transpose(-1, -2) * scaling  # [B, H, T, S]
        if is_causal:
            mask = causal_mask(query.size(2), key.size(2), wide, scores.device)
        if mask is not None:
            scores = scores + mask
        weights = scores.softmax(dim=-1).to(value.dtype)
        if callable(dropout):
            weights = dropout(weights)
        else:
            weights = F.dropout(weights, dropout, training=dropout > 0)
        if head_mask is not None:
            weights = weights * head_mask
        return weights @ value, weights


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scaling: float,
    dropout: float,
) -> Tensor:
    """Attend in one fused kernel, `torch.nn.functional.scaled_dot_product_attention`.

    On a CPU, where that kernel has no dropout, plain products may be faster.
    """
    if is_causal and cpu.is_faster(query, key, dropout):
        return cpu.causal_attention(query, key, value, scaling, dropout)
    if mask is not None:
        # In half precision the mask of a hidden key becomes -inf; no row hides all keys by now.
        mask = mask.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=dropout, is_causal=is_causal, scale=scaling
    )


_REGISTRY = AttentionRegistry(
    {
        "sdpa": sdpa_attention,
        # Without weights; the model calls `eager_attention` if they are requested.
        "eager": lambda *arrays, **options: eager_attention(*arrays, **options)[0],
    }
)
register_attention = _REGISTRY.register
get_attention = _REGISTRY.get


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keep autocast from computing scores in half precision, whatever type their factors have."""
    name = device.type
    if torch.amp.is_autocast_available(name) and torch.is_autocast_enabled(name):
        return torch.autocast(name, enabled=False)
    return nullcontext()


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the scores, and of the masks added to them, of queries in `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def causal_mask(T: int, S: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask [T, S] of T queries that are the last of S positions."""
    future = torch.full((T, S), torch.finfo(dtype).min, dtype=dtype, device=device)
    return future.triu(S - T + 1)


def self_attention_mask(
    attention_mask: Tensor | None, T: int, S: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Combine a user's mask with causal order into one mask [B, 1 or H, T, S].

    None if only the causal order applies and no mask is needed: for one query, or for as many
    queries as keys (implementations have `is_causal`). A trace of one query is also used for more
    queries, so it contains the mask.

    Args:
        attention_mask: None; [B, S], nonzero where a key may be seen; or rank 4, boolean (True
            where it may be seen) or additive. One of rank 4 with T rows replaces the causal order;
            with one row for all queries it is added to it.
        T: query length.
        S: key length.
        dtype: of the mask.
        device: of the mask.
    """
    if attention_mask is None:
        in_order = T == S or (T == 1 and not torch.jit.is_tracing())
        return None if in_order else causal_mask(T, S, dtype, device)[None, None]
    mask = padding_mask(attention_mask, dtype)
    if mask.size(2) != T or (T == 1 and torch.jit.is_tracing()):
        mask = torch.minimum(mask, causal_mask(T, S, dtype, device))
    return raise_hidden_rows(mask)


def padding_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Make a mask of rank 2, 3 ([B, T, S], for cross-attention) or 4 additive and of rank 4."""
    lowest = torch.finfo(dtype).min / 2
    if attention_mask.dim() == 4 and attention_mask.is_floating_point():
        return attention_mask.to(dtype).clamp(min=lowest)
    while attention_mask.dim() < 4:
        attention_mask = attention_mask[:, None]
    return torch.zeros_like(attention_mask, dtype=dtype).masked_fill(attention_mask == 0, lowest)


def raise_hidden_rows(mask: Tensor) -> Tensor:
    """Raise each row of a mask that hides all keys, so that its highest entries are 0.

    This does not change softmax. Without it fused kernels would lose gradients: they keep the
    logarithm of the sum of exponentials, in which scores vanish beside `finfo.min / 2`.
    """
    return mask - mask.amax(dim=-1, keepdim=True).clamp(max=0)


def packed_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask [B, 1, T, T] that separates packed texts.

    A new text starts where `position_ids` [B or 1, T] does not continue by one.
    """
    starts = position_ids.diff(prepend=position_ids[:, :1] - 1) != 1
    text = starts.cumsum(dim=-1)  # [B, T]
    other_text = text[:, None, :, None] != text[:, None, None, :]
    T = position_ids.size(-1)
    mask = causal_mask(T, T, dtype, position_ids.device)
    return mask.masked_fill(other_text, torch.finfo(dtype).min)
