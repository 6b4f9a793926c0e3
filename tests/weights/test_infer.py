"""Configs inferred from the shapes of weights, and weights that are held twice."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError
from gpt2x.weights.infer import infer_config, same_values
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Head, parameter_shapes


def test_same_values_are_told_bit_by_bit():
    nan = np.array([[np.nan, 1.0]], np.float32)
    assert same_values(LazyTensor.of(nan), LazyTensor.of(nan.copy()))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan + 1))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan.astype(np.float64)))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan.T))


def shapes(config, head=Head.LM):
    return {
        name: LazyTensor(shape, np.dtype("f4"), lambda: np.zeros(1))
        for name, shape in parameter_shapes(config, head).items()
    }


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, Head.LM),
        ({"n_inner": 200}, Head.NONE),
        ({"add_cross_attention": True, "n_layer": 11}, Head.LM),
        ({"num_labels": 5}, Head.SEQUENCE_CLASSIFICATION),
        ({"summary_proj_to_labels": False}, Head.DOUBLE),
    ],
)
def test_a_config_is_inferred_from_shapes(fields, head):
    config = GPT2Config(vocab_size=300, n_positions=9, n_embd=128, n_head=2, bos_token_id=None,
                        eos_token_id=None, **fields)  # fmt: skip
    inferred = GPT2Config(**infer_config(shapes(config, head)))
    assert inferred == config


def test_what_shapes_do_not_tell():
    config = GPT2Config(vocab_size=300, n_positions=9, n_embd=100, n_head=5, n_layer=1)
    with pytest.raises(CheckpointError, match="pass n_head="):
        infer_config(shapes(config))
    assert infer_config(shapes(config), n_head=5)["n_head"] == 5
    with pytest.raises(CheckpointError, match=r"lacks wte\.weight, wpe\.weight"):
        infer_config({})
