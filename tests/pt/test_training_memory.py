"""What a micro-batch keeps for the backward pass is what docs/distributed.md computes."""

from __future__ import annotations

import pytest
import torch

from gpt2x.config import GPT2Config
from gpt2x.pt import GPT2Model

N_EMBD, ROWS, TOKENS = 48, 2, 32


def kept(n_layer: int, *, bf16: bool, checkpointing: bool) -> int:
    """Return the bytes of the tensors that a forward pass keeps, without those of weights."""
    config = GPT2Config(
        n_layer=n_layer,
        n_embd=N_EMBD,
        n_head=1,
        n_positions=TOKENS,
        vocab_size=96,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2Model(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.zeros((ROWS, TOKENS), dtype=torch.long)
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Weights, and their copies in bfloat16, have no row for each token.
        if tensor.shape[0] in (ROWS, ROWS * TOKENS):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model(ids, use_cache=False)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    ("bf16", "checkpointing", "expected"),
    [(False, False, 64), (True, False, 36), (False, True, 4), (True, True, 4)],
)
def test_a_block_keeps_so_many_bytes_of_a_token_and_feature(bf16, checkpointing, expected):
    found = kept(5, bf16=bf16, checkpointing=checkpointing)
    found -= kept(3, bf16=bf16, checkpointing=checkpointing)
    assert found / (2 * ROWS * TOKENS * N_EMBD) == pytest.approx(expected, rel=0.05)
