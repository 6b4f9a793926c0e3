"""The small parts that the formats share: lazy tensors, shards, names, inferred configs."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats import shards
from gpt2x.formats.tensorflow import crc32c
from gpt2x.weights import names
from gpt2x.weights.infer import infer_config, same_values
from gpt2x.weights.lazy import BFLOAT16, LazyTensor, concatenated
from gpt2x.weights.table import FLAX, TENSORFLOW, Head, parameter_shapes


@pytest.mark.parametrize("module", [crc32c, names, shards])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def lazy(shape, dtype=np.float32):
    return LazyTensor.of(np.arange(np.prod(shape)).reshape(shape).astype(dtype))


def test_a_changed_tensor_knows_its_shape():
    tensor = lazy((4, 6))
    for changed, expected in [
        (tensor.transposed(), tensor.read().T),
        (tensor.reshaped(3, 8), tensor.read().reshape(3, 8)),
        (concatenated([tensor, tensor], 1), np.hstack([tensor.read()] * 2)),
        (concatenated([tensor, tensor], -1), np.hstack([tensor.read()] * 2)),
        (tensor.astype(BFLOAT16), tensor.read().astype(BFLOAT16)),
    ]:
        array = changed.read()
        assert (changed.shape, changed.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(array, expected)
    assert tensor.transposed().read().flags.c_contiguous
    assert (tensor.size, tensor.nbytes) == (24, 96)


def test_parts_of_other_shapes_do_not_join():
    for other, axis in [(lazy((4, 5)), 0), (lazy((4, 6), np.float64), 0), (lazy((4, 6)), 2)]:
        with pytest.raises(CheckpointError, match="cannot be joined"):
            concatenated([lazy((4, 6)), other], axis)


def test_same_values_are_told_bit_by_bit():
    nan = np.array([[np.nan, 1.0]], np.float32)
    assert same_values(LazyTensor.of(nan), LazyTensor.of(nan.copy()))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan + 1))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan.astype(np.float64)))
    assert not same_values(LazyTensor.of(nan), LazyTensor.of(nan.T))


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 100), min_size=1), st.integers(1, 150))
def test_shards_hold_everything_once_and_are_not_too_large(sizes, limit):
    plan = shards.plan_shards(sizes, limit, "model.safetensors")
    assert [name for shard in plan for name in shard.names] == list(sizes)
    for shard in plan:
        assert len(shard.names) == 1 or sum(sizes[name] for name in shard.names) <= limit
    assert len({shard.file for shard in plan}) == len(plan)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("200MiB", 200 * 2**20), ("1.5kb", 1500), (77, 77), ("8 TB", 8 * 10**12)],
)
def test_sizes(text, size):
    assert shards.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "5XB", "1e9", None, 0])
def test_bad_sizes(text):
    with pytest.raises(InvalidInputError, match="max_shard_size"):
        shards.parse_size(text)


@pytest.mark.parametrize("head", Head)
def test_names_of_every_parameter_are_read_back(head):
    config = GPT2Config(n_layer=11, add_cross_attention=True, tie_word_embeddings=False)
    for name in parameter_shapes(config, head):
        for prefix in (True, False):
            flax = FLAX.spell(name, prefix=prefix)
            for spelled in (flax, flax.replace("/", "."), f"params/{flax}"):
                assert names.flax_name(spelled) == (name, FLAX.layout(name))
            tensorflow = TENSORFLOW.spell(name, prefix=prefix)
            for scope in ("", "tfgpt2lm_head_model/", "my/own/transformer/"):
                spelled = f"{scope}{tensorflow}:0"
                assert names.tensorflow_name(spelled) == (name, TENSORFLOW.layout(name))


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
