"""Copies of weights that `generate` makes: they follow their weights, and nothing holds them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt2x.pt.cpu import copies, linear
from gpt2x.pt.cpu.copies import copied_weights
from gpt2x.pt.model import Conv1D
from support.pt_models import random_ids, tiny_model


@pytest.fixture(
    params=[(torch.bfloat16, True), (torch.float32, False)], ids=["bfloat16", "float32"]
)
def dtype(monkeypatch, request):
    """A type whose weights are copied: bfloat16, and float32 where MKL is not the fastest."""
    dtype, prefers_mkl = request.param
    monkeypatch.setattr(linear, "LARGE", 1)
    monkeypatch.setattr(linear, "_PREFERS_MKL", prefers_mkl)
    return dtype


@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_copies_follow_their_weight(dtype, rows):
    layer, x = Conv1D(300, 32).to(dtype), torch.randn(rows, 32).to(dtype)
    for parameter in layer.parameters():
        parameter.normal_()
    with copied_weights(True):
        for change in (
            lambda: None,
            lambda: layer.weight.mul_(2),
            lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight + 1)),
            lambda: setattr(layer.weight, "data", layer.weight.data - 3),
        ):
            change()
            torch.testing.assert_close(layer(x), torch.addmm(layer.bias, x, layer.weight))
            assert len(copies._COPIES.get()) > 0
    assert copies._COPIES.get() is None
    assert layer.weight.is_contiguous()
    with copied_weights(False):
        layer(x)
        assert copies._COPIES.get() is None


def test_long_generations_copy_weights(dtype):
    """Four for each of two layers: two for attention and two for the MLP."""
    model = tiny_model(n_positions=64).to(dtype)
    seen = []

    def look(input_ids: Tensor, scores: Tensor) -> Tensor:
        kept = copies._COPIES.get()
        seen.append(kept if kept is None else len(kept))
        return scores

    for length, expected in ((24, 8), (2, None)):
        options = {"do_sample": False, "min_new_tokens": length, "max_new_tokens": length}
        model.generate(random_ids(1, 4), **options, logits_processor=[look])
        assert set(seen) == {expected}
        seen.clear()
    assert copies._COPIES.get() is None
