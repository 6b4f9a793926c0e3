"""Both ONNX exporters of PyTorch, run by onnxruntime on other shapes than they exported."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpt2x import pt
from support.pt_models import random_ids, tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = [
    # What a trace takes for constant is what this file tests; PyTorch announces its newer exporter.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

NAMES = ["ids", "mask", "types", "k0", "v0", "k1", "v1"]


class WithPast(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, types, *past):
        pairs = tuple(zip(past[::2], past[1::2], strict=True))
        out = self.model(ids, pairs, attention_mask=mask, token_type_ids=types, use_cache=True)
        return (out.logits, *(tensor for layer in out.past_key_values for tensor in layer))


def with_past(model, B, T, P):
    """Return inputs with a padded row, and the logits and past that they give."""
    ids, mask, types = random_ids(B, P + T), torch.ones(B, P + T).long(), random_ids(B, P + T)
    mask[0, :2] = 0
    options = {"attention_mask": mask[:, :P], "token_type_ids": types[:, :P]}
    past = [t for layer in model(ids[:, :P], **options).past_key_values for t in layer]
    inputs = (ids[:, P:].contiguous(), mask, types[:, P:].contiguous(), *past)
    return inputs, WithPast(model)(*inputs)


def run(file, inputs):
    session = onnxruntime.InferenceSession(file)
    names = [node.name for node in session.get_inputs()]
    return session.run(
        None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    )


def assert_same(found, expected):
    for array, tensor in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(array), tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [14, 18, None])
def test_a_model_with_a_past(opset, tmp_path):
    model, file = tiny_model(pt.GPT2LMHeadModel), tmp_path / "model.onnx"
    with torch.no_grad():
        inputs, _ = with_past(model, 2, 3, 5)
        if opset is None:
            auto = torch.export.Dim.AUTO
            shapes = [{0: auto, 1: auto}] * 3
            past = ({0: auto, 2: auto},) * 4
            program = torch.onnx.export(
                WithPast(model).eval(), inputs, dynamo=True, dynamic_shapes=(*shapes, past)
            )
            program.save(file)
        else:
            axes = {name: {0: "B", 1: "T"} for name in NAMES[:3]}
            axes |= {name: {0: "B", 2: "P"} for name in NAMES[3:]}
            options = {"input_names": NAMES, "dynamic_axes": axes, "opset_version": opset}
            torch.onnx.export(WithPast(model).eval(), inputs, file, dynamo=False, **options)
        for shape in ((2, 3, 5), (1, 1, 4), (3, 4, 3), (2, 1, 9)):
            inputs, expected = with_past(model, *shape)
            assert_same(run(file, inputs), expected)


class WithMask(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, attention_mask=mask, use_cache=False, return_dict=False)


@pytest.mark.parametrize("name", ["Model", "ForSequenceClassification", "ForTokenClassification"])
def test_heads_without_a_past(name, tmp_path):
    model = WithMask(tiny_model(getattr(pt, f"GPT2{name}"), pad_token_id=0)).eval()
    file = tmp_path / "model.onnx"
    axes = {name: {0: "B", 1: "T"} for name in NAMES[:2]}
    options = {"input_names": NAMES[:2], "dynamic_axes": axes, "opset_version": 17}
    inputs = (random_ids(2, 6), torch.ones(2, 6).long())
    torch.onnx.export(model, inputs, file, dynamo=False, **options)
    for B, T in ((2, 6), (1, 1), (3, 9)):
        ids, mask = random_ids(B, T), torch.ones(B, T).long()
        mask[0, : T // 2] = 0
        with torch.no_grad():
            assert_same(run(file, (ids, mask)), model(ids, mask))


@pytest.mark.parametrize("options", [{"torchscript": True}, {"return_dict": False}])
def test_ids_alone(options, tmp_path):
    model = tiny_model(pt.GPT2LMHeadModel, use_cache=False, **options).eval()
    file, ids = tmp_path / "model.onnx", random_ids(2, 6)
    axes = {"input_ids": {0: "B", 1: "T"}}
    names = {"input_names": ["input_ids"], "dynamic_axes": axes}
    torch.onnx.export(model, (ids,), file, dynamo=False, opset_version=17, **names)
    session = onnxruntime.InferenceSession(file)
    assert [each.name for each in session.get_inputs()] == ["input_ids"]
    with torch.no_grad():
        assert_same(run(file, (ids := random_ids(3, 4),)), model(ids))
