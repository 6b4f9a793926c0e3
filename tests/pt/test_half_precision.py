"""Half precision under every flag: weights or autocast, padded, cached, and scores of any size."""

from __future__ import annotations

import copy
import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2x import pt
from gpt2x.pt.attention import eager_attention, sdpa_attention
from support.pt_models import assert_as_close_as, random_ids, tiny_model

FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
LENGTHS = (3, 8, 5)
WIDTH = max(LENGTHS)


def model_under(flags: tuple[bool, ...], large_scores: bool) -> Any:
    """Return a model of heads of width 8; large scores are the others plus 260 * 260.

    What all keys have in common changes no weight of attention, so the numbers stay well defined.
    """
    fields = dict(zip(FLAGS, flags, strict=True))
    model = tiny_model(initializer_range=0.1, bos_token_id=0, eos_token_id=0, **fields)
    if large_scores:
        for block in model.transformer.h:
            with torch.no_grad():
                # The first channel of each head's queries and keys.
                block.attn.c_attn.weight[:, :48:8] = 0
                block.attn.c_attn.bias[:48:8] = 260
    return model


def padded(texts: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    ids, mask = torch.full((len(texts), WIDTH), 7), torch.zeros(len(texts), WIDTH, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(WIDTH - len(text), WIDTH) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask


def logits_of(model: Any, ids: Tensor, mask: Tensor, cached: bool) -> Tensor:
    """Run [B, T] as a whole; or four columns, then two, then one at a time."""
    logits, past = [], None
    ends = (4, 6, 7, 8) if cached else (WIDTH,)
    for start, end in itertools.pairwise((0, *ends)):
        piece = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end]}
        output = model(**piece, past_key_values=past, use_cache=cached)
        logits.append(output.logits)
        past = output.past_key_values
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("large_scores", [False, True])
@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_every_way_to_attend(
    dtype: torch.dtype,
    autocast: bool,
    implementation: str,
    flags: tuple[bool, ...],
    large_scores: bool,
):
    """As close to float64 as the type can be, and each padded row to the row alone."""
    model = model_under(flags, large_scores)
    half = model if autocast else copy.deepcopy(model).to(dtype)
    half.set_attn_implementation(implementation)
    exact = copy.deepcopy(half).double()
    context: AbstractContextManager = torch.autocast("cpu", dtype) if autocast else nullcontext()
    texts = [random_ids(n) for n in LENGTHS]
    alone = [text[None] for text in texts]
    with context:
        each = [half(text).logits[0] for text in alone]
    exactly = [exact(text).logits[0] for text in alone]
    for side, cached in itertools.product(("left", "right"), (False, True)):
        ids, mask = padded(texts, side)
        with context:
            logits = logits_of(half, ids, mask, cached)
        assert logits.dtype == dtype
        assert logits.isfinite().all()
        for row in range(len(texts)):
            found = logits[row, mask[row] == 1]
            assert_as_close_as(dtype, found, each[row])
            assert_as_close_as(dtype, found, exactly[row])


@pytest.mark.parametrize("function", [eager_attention, sdpa_attention])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_score_reaches_a_hidden_key(function: Any, dtype: torch.dtype, side: str):
    """Not even one that is larger than float16's largest number."""
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    hidden = [0, 1] if side == "left" else [3]
    mask = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -3e38)
    mask[..., hidden] = -1.5e38
    mask[:, :, hidden] = 0.0
    query, huge = query.abs() * 40, key.clone()
    huge[:, :, hidden] = 1000.0  # scores of about 40 * 1000 * 8
    options = {"is_causal": False, "scaling": 1.0, "dropout": 0.0}
    outputs = []
    for keys in (key, huge):
        out = function(*(x.to(dtype) for x in (query, keys, value)), mask, **options)
        outputs.append(out[0] if isinstance(out, tuple) else out)
    real = [column for column in range(4) if column not in hidden]
    assert torch.equal(outputs[0][:, :, real], outputs[1][:, :, real])


@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_on_padding_is_finite(dtype: torch.dtype, implementation: str, upcast: bool):
    model = model_under((True, False, upcast), large_scores=True).to(dtype).train()
    model.set_attn_implementation(implementation)
    ids, mask = padded([random_ids(n) for n in LENGTHS], "left")
    model(ids, attention_mask=mask, labels=ids).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_masks_of_half_precision_are_taken():
    model = tiny_model(pt.GPT2Model, initializer_range=0.1)
    ids, mask = padded([random_ids(n) for n in LENGTHS], "right")
    allowed = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril() & mask.bool()[:, None, None]
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
    expected = model(ids, attention_mask=allowed).last_hidden_state
    for dtype in (torch.float16, torch.bfloat16):
        found = model(ids, attention_mask=additive.to(dtype)).last_hidden_state
        torch.testing.assert_close(found, expected)
        lowest = additive.clamp(min=torch.finfo(dtype).min).to(dtype)
        found = copy.deepcopy(model).to(dtype)(ids, attention_mask=lowest).last_hidden_state
        assert_as_close_as(dtype, found[mask == 1], expected[mask == 1])


@pytest.mark.parametrize("upcast", [False, True])
def test_a_model_without_numbers_runs(upcast: bool):
    """On the device "meta", which has no autocast."""
    model = tiny_model(reorder_and_upcast_attn=upcast).to("meta")
    assert model(random_ids(2, 5).to("meta")).logits.shape == (2, 5, 61)
