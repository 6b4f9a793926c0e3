"""`load_state_dict` of what wrappers and older versions have saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpt2x import pt
from support.pt_models import random_ids, tiny_config, tiny_model

IDS = torch.arange(10).reshape(2, 5)
MASKS = {
    "bias": torch.tril(torch.ones(1, 1, 32, 32, dtype=torch.bool)),
    "masked_bias": torch.tensor(-1e4),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(pt.GPT2LMHeadModel)


@pytest.fixture
def fresh(model):
    return pt.GPT2LMHeadModel(model.config).eval()


def assert_loaded(fresh, model, result):
    assert result.missing_keys == result.unexpected_keys == []
    torch.testing.assert_close(fresh(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    assert fresh.lm_head.weight is fresh.transformer.wte.weight


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_masks_of_older_versions_are_left_out(model, fresh, strict, assign):
    masks = {f"transformer.h.{i}.attn.{name}": v for i in range(2) for name, v in MASKS.items()}
    state = {**model.state_dict(), **masks}
    result = fresh.load_state_dict(state, strict=strict, assign=assign)
    assert_loaded(fresh, model, result)
    assert len(state) == len(model.state_dict()) + 4  # what is given stays as it is


def test_masks_of_bodies_and_of_cross_attention():
    config = tiny_config(add_cross_attention=True)
    body = pt.GPT2Model(config)
    masks = {f"h.1.crossattention.{name}": value for name, value in MASKS.items()}
    result = pt.GPT2Model(config).load_state_dict({**body.state_dict(), **masks})
    assert result.missing_keys == result.unexpected_keys == []


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
@pytest.mark.parametrize("assign", [True, False])
def test_prefixes_of_wrappers(model, fresh, prefix, assign):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    assert_loaded(fresh, model, fresh.load_state_dict(state, assign=assign))


@pytest.mark.parametrize("part", ["transformer", "transformer.h.0", "transformer.h.1.mlp"])
def test_compiled_parts_go_into_plain_ones_and_back(model, fresh, part):
    compiled = pt.GPT2LMHeadModel(model.config).eval()
    parent, _, name = part.rpartition(".")
    owner = compiled.get_submodule(parent)
    owner.register_module(name, torch.compile(owner.get_submodule(name), backend="eager"))
    assert any("_orig_mod" in name for name in compiled.state_dict())
    compiled.load_state_dict(compiled.state_dict())  # its own names stay
    compiled_state = compiled.state_dict().values()
    fresh.load_state_dict(compiled.state_dict())
    for found, expected in zip(fresh.state_dict().values(), compiled_state, strict=True):
        torch.testing.assert_close(found, expected)


def test_real_wrappers_load_and_give(model, fresh):
    compiled = torch.compile(model, backend="eager")
    assert_loaded(fresh, model, fresh.load_state_dict(compiled.state_dict()))
    parallel = nn.DataParallel(pt.GPT2LMHeadModel(model.config).eval())
    parallel.load_state_dict(nn.DataParallel(model).state_dict())
    assert_loaded(parallel.module, model, fresh.load_state_dict(parallel.state_dict()))


def test_a_tied_output_layer_may_be_missing(model, fresh):
    state = model.state_dict()
    del state["lm_head.weight"]
    assert_loaded(fresh, model, fresh.load_state_dict(state))
    untied = pt.GPT2LMHeadModel(tiny_config(tie_word_embeddings=False))
    with pytest.raises(RuntimeError, match=r"Missing key.*lm_head\.weight"):
        untied.load_state_dict(state)


def test_a_model_inside_another_module(model):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = pt.GPT2LMHeadModel(model.config).eval()
            self.extra = nn.Linear(2, 2)

    outer, other = Outer(), Outer()
    state = other.state_dict()
    del state["module.lm_head.weight"]
    state["module.transformer.h.0.attn.bias"] = MASKS["bias"]
    assert_loaded(outer.module, other.module, outer.load_state_dict(state))


def test_what_is_really_missing_or_left_over_is_reported(model, fresh):
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    del state["module.transformer.wpe.weight"]
    state["module.extra.bias"] = torch.zeros(2)
    result = fresh.load_state_dict(state, strict=False)
    assert result.missing_keys == ["transformer.wpe.weight"]
    assert result.unexpected_keys == ["module.extra.bias"]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*module\.extra\.bias") as error:
        fresh.load_state_dict(state)
    assert "transformer.wpe.weight" in str(error.value)
    assert "wte" not in str(error.value)


def test_another_head_is_an_error_as_in_transformers(model):
    body = pt.GPT2Model(model.config)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(body.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        body.load_state_dict(model.state_dict())


def test_from_pretrained_takes_parts_that_were_compiled(model):
    state = {k.replace("h.0.", "h.0._orig_mod."): v for k, v in model.state_dict().items()}
    made = pt.GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=state)
    ids = random_ids(1, 4)
    torch.testing.assert_close(made(ids).logits, model(ids).logits)
