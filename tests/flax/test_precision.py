"""Half precision: parameters cast, every head computed, and a model trained and decoded in it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt2x import flax as gpt2x_flax
from gpt2x.errors import InvalidInputError
from support.flax_models import random_ids, tiny_model

IDS = random_ids(2, 6)
MASK = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
LABELS = {
    "LMHeadModel": {"labels": IDS},
    "DoubleHeadsModel": {"labels": IDS[:, None], "mc_labels": np.zeros(2, int)},
    "ForSequenceClassification": {"labels": np.array([1, 0])},
    "ForTokenClassification": {"labels": IDS % 2},
    "ForQuestionAnswering": {
        "start_positions": np.array([2, 0]),
        "end_positions": np.array([4, 5]),
    },
}


def test_casting_params():
    model = tiny_model(n_layer=1)
    half = flatten_dict(model.to_bf16(model.params))
    assert {array.dtype for array in half.values()} == {jnp.dtype("bfloat16")}
    mask = unflatten_dict({path: path[-1] != "scale" for path in half})
    masked = flatten_dict(model.to_fp16(model.params, mask))
    assert {str(array.dtype) for path, array in masked.items() if path[-1] == "scale"} == {
        "float32"
    }
    assert masked["transformer", "wte", "embedding"].dtype == jnp.float16
    with pytest.raises(InvalidInputError, match="mask must be a tree of booleans"):
        model.to_fp16(model.params, {"transformer": True})
    assert isinstance(model.to_bf16(freeze(model.params)), FrozenDict)
    back = flatten_dict(model.to_fp32(unflatten_dict(half)))
    assert {array.dtype for array in back.values()} == {jnp.dtype("float32")}


def head_model(head, **options):
    kind = getattr(gpt2x_flax, f"FlaxGPT2{head}")
    return tiny_model(kind, options=options, n_layer=1, summary_first_dropout=0.0)


@functools.cache
def outputs_in_float32(head):
    return call(head_model(head), head)


def call(model, head, mask=MASK):
    choices = head == "DoubleHeadsModel"
    ids, mask = (IDS[:, None], mask[:, None]) if choices else (IDS, mask)
    return jax.jit(lambda model: model(ids, mask, **LABELS[head]))(model)


@pytest.mark.parametrize("head", LABELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_every_head_in_half_precision(head, dtype, tolerance):
    expected = outputs_in_float32(head)
    outputs = call(head_model(head, dtype=dtype), head)
    for name in expected:
        if name == "past_key_values":
            assert outputs[name].keys[0].dtype == dtype
            continue
        assert outputs[name].dtype == ("float32" if "loss" in name else dtype)
        np.testing.assert_allclose(
            outputs[name].astype(jnp.float32), expected[name], atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("head", LABELS)
def test_no_dtype_is_promoted_implicitly(head):
    with jax.numpy_dtype_promotion("strict"):
        output = call(head_model(head), head, MASK.astype(bool))
    np.testing.assert_allclose(output.loss, outputs_in_float32(head).loss, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_in_half_precision_too(dtype):
    model = tiny_model(options={"dtype": dtype, "param_dtype": dtype}, n_layer=1)
    model.params = jax.tree.map(lambda array: array.astype(dtype), model.params)
    mask = MASK.copy()
    mask[0] = 0  # a row of padding alone
    output = model(IDS, attention_mask=mask)
    assert np.isfinite(np.asarray(output.logits, np.float32)).all()
    gradients = jax.grad(lambda params: model(IDS, MASK, params=params, labels=IDS).loss)
    for gradient in jax.tree.leaves(jax.jit(gradients)(model.params)):
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    assert model.generate(IDS, attention_mask=MASK, max_new_tokens=3).shape == (2, 9)
