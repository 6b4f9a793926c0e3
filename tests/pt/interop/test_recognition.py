"""Layers and models that `isinstance` of transformers' classes recognises."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gpt2x import pt
from gpt2x.pt.model import Conv1D
from support.pt_models import random_ids, tiny_model


class TheirConv1D(nn.Module):
    def __init__(self, nf, nx):
        raise AssertionError("a layer of ours is not made by transformers' constructor")

    def __repr__(self):
        raise AssertionError("methods of nn.Module are not replaced by theirs")


class TheirModel(nn.Module):
    def __init_subclass__(cls):
        raise AssertionError("classes of ours do not concern them")

    def to(self, *arguments):
        raise AssertionError("methods of nn.Module are not replaced by theirs")


@pytest.fixture
def model():
    return tiny_model(pt.GPT2LMHeadModel)


@pytest.fixture
def imported(monkeypatch, model):
    """What `import transformers` leaves behind, after the model was made."""
    layers, models = types.ModuleType("layers"), types.ModuleType("models")
    layers.Conv1D, models.PreTrainedModel = TheirConv1D, TheirModel
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", layers)
    monkeypatch.setitem(sys.modules, "transformers.modeling_utils", models)


def test_without_transformers_a_class_is_its_type(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils", raising=False)
    layer = model.transformer.h[0].attn.c_attn
    assert layer.__class__ is type(layer) is Conv1D
    assert not isinstance(layer, TheirConv1D)


@pytest.mark.usefixtures("imported")
def test_layers_and_models_are_recognised_whatever_was_imported_first(model):
    class Own(pt.GPT2LMHeadModel):
        config: Nowhere  # noqa: F821

    for made in (model, tiny_model(pt.GPT2LMHeadModel), Own(model.config)):
        layer = made.transformer.h[0].attn.c_attn
        assert isinstance(layer, TheirConv1D)
        assert isinstance(layer, Conv1D)
        assert isinstance(made, TheirModel)
        assert isinstance(made, pt.GPT2LMHeadModel)
        assert type(layer) is Conv1D
        assert made.__class__.__name__ == type(made).__name__
        assert made.__class__.__qualname__ == type(made).__qualname__
    assert not isinstance(model, TheirConv1D)
    assert not isinstance(model.lm_head, TheirConv1D)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_recognised_models_are_pickled_and_copied(model, protocol):
    ids = random_ids(2, 5)
    expected = model(ids).logits
    for made in (pickle.loads(pickle.dumps(model, protocol)), copy.deepcopy(model)):
        assert type(made) is pt.GPT2LMHeadModel
        assert made.lm_head.weight is made.transformer.wte.weight
        torch.testing.assert_close(made(ids).logits, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("imported")
def test_torch_saves_compiles_and_exports_recognised_models(model):
    ids = random_ids(2, 5)
    expected = model(ids).logits
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids).logits, expected)
    exported = torch.export.export(model, (ids,)).module()
    torch.testing.assert_close(exported(ids)["logits"], expected)


@pytest.mark.usefixtures("imported")
def test_the_class_of_a_recognised_layer_can_be_changed_and_changed_back(model):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = model.transformer.h[0].attn.c_attn
    x = torch.randn(3, layer.nx)
    expected = layer(x)
    parametrize.register_parametrization(layer, "weight", Double())
    torch.testing.assert_close(layer(x) - layer.bias, 2 * (expected - layer.bias))
    assert isinstance(layer, TheirConv1D)
    assert isinstance(layer, Conv1D)
    assert "Conv1D" in repr(layer)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is Conv1D
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.usefixtures("imported")
def test_a_recognised_class_makes_our_layers(model):
    layer = model.transformer.h[0].attn.c_attn.__class__(4, 5)
    assert isinstance(layer, Conv1D)
    assert (layer.nx, layer.nf) == (5, 4)


@pytest.mark.usefixtures("imported")
def test_a_recognised_class_stands_for_ours(model):
    made = model.__class__(model.config)
    assert type(made) is pt.GPT2LMHeadModel
    assert type(pickle.loads(pickle.dumps(made))) is pt.GPT2LMHeadModel
    assert model.__class__ == pt.GPT2LMHeadModel
    assert {pt.GPT2LMHeadModel: "found"}[model.__class__] == "found"
    assert model.__class__ not in (pt.GPT2Model, TheirModel)


@pytest.mark.usefixtures("imported")
def test_a_recognised_class_can_be_derived_from(model):
    class Derived(model.__class__):
        pass

    made = Derived(model.config)
    assert type(made) is Derived
    assert isinstance(made, TheirModel)
    assert made.__class__ == Derived
    assert Derived != pt.GPT2LMHeadModel
