"""Dropout by counter-based bits in PyTorch."""

from __future__ import annotations

import pytest
import torch

from gpt2x.errors import InvalidInputError
from gpt2x.pt.dropout import Dropout, kept, kept_in_pieces, keyed
from gpt2x.pt.ops import CPU_OPS
from gpt2x.train.dropout import keys
from support.dropout import mask
from support.pt_models import tiny_model

SEED, SITE = 2**50 + 3, (1, 0, 1)


def key(first_row: int = 0) -> torch.Tensor:
    return torch.tensor([*keys(SEED, [SITE])[0].tolist(), first_row])


# In one piece and in several, and with elements whose numbers have more than 32 bits.
@pytest.mark.parametrize(
    ("shape", "first_row"), [((3, 5, 7), 0), ((3, 20_000), 4), ((4, 3), 2**31)]
)
def test_masks_are_those_of_the_core(shape, first_row):
    expected = torch.from_numpy(mask(shape, 0.3, SEED, SITE, first_row))
    assert torch.equal(kept(key(first_row), shape, 0.3), expected)
    # As on accelerators, which have no numpy.
    pieces = kept_in_pieces(CPU_OPS, torch.arange(1000), key(first_row), shape, 0.3)
    assert torch.equal(torch.cat([*pieces]).view(*shape), expected)


def test_a_layer_drops_by_its_key_in_training_alone():
    layer, x = Dropout(0.3), torch.arange(1.0, 25).view(2, 3, 4).requires_grad_()
    layer.key = key()
    out = layer(x)
    expected = torch.from_numpy(mask((2, 3, 4), 0.3, SEED, SITE)) / (1 - 0.3)
    torch.testing.assert_close(out, x * expected)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], expected.float())
    # The order of memory does not count.
    turned = x.detach().transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(layer(turned), out)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert layer.eval()(x) is x


def test_rate_one_keeps_nothing():
    layer = Dropout(1.0)
    layer.key = key()
    assert not layer(torch.ones(2, 3)).any()


def test_keys_are_gone_after_a_step_that_fails():
    model = tiny_model().train()
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    assert len(layers) == 1 + 3 * len(model.transformer.h)
    with keyed(model, SEED):
        assert len({tuple(layer.key.tolist()) for layer in layers}) == len(layers)
        model(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(InvalidInputError), keyed(model, SEED):
        model(torch.full((1, 4), 1000))
    assert {layer.key for layer in layers} == {None}
