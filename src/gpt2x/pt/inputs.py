"""The inputs of a PyTorch model: checked, reshaped, and read on the host if that is free.

B batch, T query length, S key length (past and new).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks
from gpt2x.pt.cache import KVCache

Inputs = Mapping[str, Tensor | None]


def check_inputs(config: GPT2Config, cache: KVCache | None, inputs: Inputs) -> None:
    """Check the inputs of a body's call, as far as shapes, lengths and values are known.

    Raises:
        InvalidInputError: for the first error.
    """
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor):
            raise InvalidInputError(
                f"{name} must be a torch.Tensor; got {type(value).__name__}. Wrap it in "
                'torch.tensor, or tokenize with return_tensors="pt".'
            )
    given: dict[str, Any] = dict(inputs)
    checks.check_model_inputs(
        config,
        host_values,
        past_length=0 if cache is None else cache.one_length,
        past_key=None if cache is None else cache.keys[0],
        **given,
    )


def host_values(tensor: Tensor) -> np.ndarray | None:
    """Return a tensor's values if reading them is free: on the CPU, outside of tracing."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.device.type != "cpu":
        return None
    try:
        return tensor.detach().numpy()
    except RuntimeError:  # inside vmap and other transformations there are no values
        return None


def rows(ids: Tensor) -> Tensor:
    """Flatten the leading dimensions, [..., T] -> [B, T], and convert to a type for embeddings."""
    ids = ids.reshape(-1, ids.size(-1))
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.long()


def visible(attention_mask: Tensor | None, S: int) -> Tensor | None:
    """Return the mask as [B, S], or as it is if of rank 4; None if it is known to hide nothing.

    Without a mask the faster path is used.
    """
    if attention_mask is None or attention_mask.dim() == 4:
        return attention_mask
    values = host_values(attention_mask)
    is_all_ones = values is not None and bool(values.all())
    return None if is_all_ones else attention_mask.reshape(-1, S)


def is_counting_on(position_ids: Tensor) -> bool:
    """Return whether positions [B, T] are known to increase by one in every row."""
    values = host_values(position_ids)
    return values is not None and bool((np.diff(values) == 1).all())


def positions(
    attention_mask: Tensor | None, past_length: int, T: int, device: torch.device
) -> Tensor:
    """Return the positions [B or 1, T] of the last T tokens, by the mask [B, S] if there is one."""
    if attention_mask is None or attention_mask.dim() == 4:
        return torch.arange(past_length, past_length + T, device=device)[None]
    attended = (attention_mask != 0).long().cumsum(dim=-1)  # [B, S]
    last = (attended == attended[:, -1:]).long().argmax(dim=-1, keepdim=True)  # [B, 1]
    columns = torch.arange(past_length, past_length + T, device=attended.device)
    # Padding behind the last attended token continues its position, as in transformers.
    return (attended[:, past_length:] - 1).clamp(min=0) + (columns - last).clamp(min=0)
