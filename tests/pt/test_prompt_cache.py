"""The prompt cache in PyTorch, held to what every backend does."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from support.contract.prompt_cache import PREFIX, WHOLE, PromptCacheContract
from support.pt_models import BACKEND


class TestPromptCache(PromptCacheContract):
    backend = BACKEND
    uncompiled = nullcontext
    call_name = "forward"

    def in_bfloat16(self, cache: Any) -> Any:
        return cache._map(lambda buffer: buffer.to(torch.bfloat16))

    def test_a_fork_of_one_copy_shares_no_memory(self, model, cache):
        before = cache[0][0].clone()
        fork = cache.fork().extend(12)
        model(torch.tensor(WHOLE[:1, 6:]), past_key_values=fork)
        assert (cache.length, fork.length) == (6, 11)
        assert torch.equal(cache[0][0], before)
        assert fork.text is None  # it knows only what came before

    def test_no_gradients_are_kept(self, model):
        cache = model.prefill(torch.tensor(PREFIX))
        assert not any(tensor.requires_grad for layer in cache.to_tuple() for tensor in layer)
