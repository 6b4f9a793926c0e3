"""TorchScript traces: saved, loaded, and run on other shapes than they were made with."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from gpt2x import pt
from support.pt_models import random_ids, tiny_config, tiny_model

pytestmark = pytest.mark.filterwarnings(
    # What a trace takes for constant is what this file tests.
    "ignore::torch.jit.TracerWarning",
    # PyTorch announces torch.export at every trace.
    "ignore:`torch.jit:DeprecationWarning",
)

HEADS = {
    "Model": {},
    "LMHeadModel": {},
    "DoubleHeadsModel": {},
    "ForSequenceClassification": {"pad_token_id": 0},
    "ForTokenClassification": {},
    "ForQuestionAnswering": {},
}


def flat(output):
    """Return the tensors of an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]


def assert_same(found, expected):
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-5)


def reloaded(trace):
    file = io.BytesIO()
    torch.jit.save(trace, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_traced_and_saved(name, use_cache):
    kind = getattr(pt, f"GPT2{name}")
    model = tiny_model(kind, torchscript=True, use_cache=use_cache, **HEADS[name])
    choices = (2,) if name == "DoubleHeadsModel" else ()
    trace = reloaded(torch.jit.trace(model, random_ids(2, *choices, 8)))
    for B, T in ((2, 8), (3, 1), (1, 20)):
        ids = random_ids(B, *choices, T)
        assert_same(trace(ids), model(ids))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("T", "P"), [(1, 5), (3, 4), (2, 2)])
@pytest.mark.parametrize("masked", [True, False])
def test_a_past_is_traced_at_any_length(T, P, masked, implementation):
    model = tiny_model(pt.GPT2LMHeadModel, torchscript=True)
    model.set_attn_implementation(implementation)

    class WithPast(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, past, mask):
            return self.model(ids, past, attention_mask=mask if masked else None)

    def inputs(B, T, P):
        ids, mask = random_ids(B, P + T), torch.ones(B, P + T, dtype=torch.long)
        mask[0, :2] = 0
        out = model(ids[:, :P], attention_mask=mask[:, :P] if masked else None)
        return ids[:, P:], tuple(out[1]), mask

    with torch.no_grad():
        trace = reloaded(torch.jit.trace(WithPast().eval(), inputs(2, T, P)))
        for shape in ((1, 1, 3), (2, 4, 7), (3, 1, 2), (2, 5, 3)):
            given = inputs(*shape)
            assert_same(trace(*given), WithPast().eval()(*given))


def test_the_tuple_of_a_wrapper():
    model = tiny_model(pt.GPT2LMHeadModel)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(ids, attention_mask=mask, return_dict=False)

    trace = torch.jit.trace(Wrapper().eval(), (random_ids(2, 6), torch.ones(2, 6)))
    ids, mask = random_ids(3, 9), torch.ones(3, 9)
    mask[:, :2] = 0
    assert_same(trace(ids, mask), model(ids, attention_mask=mask, return_dict=False))


def test_the_dict_of_a_trace_that_is_not_strict():
    model = tiny_model(pt.GPT2LMHeadModel, use_cache=False)
    inputs = {"input_ids": random_ids(2, 6), "attention_mask": torch.ones(2, 6)}
    trace = torch.jit.trace(model, example_kwarg_inputs=inputs, strict=False)
    ids, mask = random_ids(3, 9), torch.ones(3, 9)
    mask[:, :2] = 0
    found = trace(input_ids=ids, attention_mask=mask)["logits"]
    torch.testing.assert_close(found, model(ids, attention_mask=mask).logits)


def test_torchscript_unties_the_output_layer():
    model = pt.GPT2LMHeadModel(tiny_config(torchscript=True))
    embedding = model.transformer.wte.weight
    assert model.lm_head.weight is not embedding
    torch.testing.assert_close(model.lm_head.weight, embedding)
    model.resize_token_embeddings(70)
    assert model.lm_head.weight.shape == (70, 24)
    torch.testing.assert_close(model.lm_head.weight, model.transformer.wte.weight)


def test_untied_models_are_loaded_and_saved_as_tied(tmp_path):
    model = tiny_model(pt.GPT2LMHeadModel)
    model.save_pretrained(tmp_path)
    loaded = pt.GPT2LMHeadModel.from_pretrained(tmp_path, torchscript=True)
    ids = random_ids(2, 5)
    assert loaded.lm_head.weight is not loaded.transformer.wte.weight
    torch.testing.assert_close(loaded(ids)[0], model(ids).logits)
    loaded.save_pretrained(tmp_path)
    tied = pt.GPT2LMHeadModel.from_pretrained(tmp_path, torchscript=False)
    assert tied.lm_head.weight is tied.transformer.wte.weight
    torch.testing.assert_close(tied(ids).logits, model(ids).logits)
    trained = pt.GPT2LMHeadModel(tiny_config(torchscript=True)).eval()
    trained.load_state_dict(model.state_dict())
    torch.testing.assert_close(trained(ids)[0], model(ids).logits)
