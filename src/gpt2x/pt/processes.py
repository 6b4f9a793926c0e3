"""Processes that run one model together, as FSDP and ZeRO-3 do: each must call it equally often."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from gpt2x.errors import InvalidInputError


def is_synced(model: Any, wanted: bool | None) -> bool:
    """Return whether `generate` has to run a model as often as the other processes do.

    Args:
        model: None asks it: FSDP marks the models whose parameters it spreads over processes.
        wanted: `synced_gpus` of the call.

    Raises:
        InvalidInputError: if that is wanted and there is no process group.
    """
    is_ready = distributed.is_available() and distributed.is_initialized()
    if wanted and not is_ready:
        raise InvalidInputError(
            "synced_gpus=True needs a process group; call torch.distributed.init_process_group "
            "first, or leave it out."
        )
    if wanted is None:
        wanted = getattr(model, "_is_fsdp_managed_module", False)
    return bool(wanted) and is_ready and distributed.get_world_size() > 1


def any_process_runs(is_running: bool, device: torch.device) -> bool:
    """Return whether a process still runs; all of them have to ask at the same time."""
    count = torch.tensor(float(is_running), device=device)
    distributed.all_reduce(count)
    return bool(count > 0)
