"""What tests run in processes of their own, in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from support.pt_models import untrained_model


def generate_together(rank: int, address: str, results: Any) -> None:
    """Be process `rank` of two that generate; put the rank, the length of the text and the calls.

    It is here since a new process can import `support`, but not every module of tests.
    """
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model, calls = untrained_model(eos_token_id=None), []
    model.register_forward_hook(lambda *_: calls.append(1))
    text = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3 + 4 * rank, synced_gpus=True)
    results.put((rank, text.size(1), len(calls)))
    distributed.destroy_process_group()
