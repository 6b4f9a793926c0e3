"""The weight table: one spelling a backend, the same map in both directions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.weights.table import (
    FLAX,
    PYTORCH,
    TENSORFLOW,
    Head,
    Layout,
    canonical_pytorch_name,
    parameter_shapes,
)


def config(**overrides: object) -> SimpleNamespace:
    fields = {
        "vocab_size": 97,
        "n_positions": 32,
        "n_embd": 24,
        "n_inner": 40,
        "n_layer": 11,
        "add_cross_attention": True,
        "num_labels": 3,
        "tie_word_embeddings": False,
        "summary_use_proj": True,
        "summary_proj_to_labels": True,
    }
    return SimpleNamespace(**{**fields, **overrides})


@pytest.mark.parametrize("spelling", [PYTORCH, TENSORFLOW, FLAX], ids=["pt", "tf", "flax"])
@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("prefix", [True, False])
def test_every_parameter_name_survives_the_round_trip(spelling, head, prefix):
    names = list(parameter_shapes(config(), head))
    spelled = [spelling.spell(name, prefix=prefix) for name in names]
    assert len(set(spelled)) == len(names)
    assert [spelling.canonical(name) for name in spelled] == names


@pytest.mark.parametrize(
    ("canonical", "pt", "tf", "flax"),
    [
        ("wte.weight", "transformer.wte.weight", "transformer/wte/embeddings",
         "transformer/wte/embedding"),
        ("h.10.ln_1.bias", "transformer.h.10.ln_1.bias", "transformer/h_._10/ln_1/beta",
         "transformer/h/10/ln_1/bias"),
        ("h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.weight",
         "transformer/h_._0/mlp/c_fc/weight", "transformer/h/0/mlp/c_fc/kernel"),
        ("lm_head.weight", "lm_head.weight", "lm_head/kernel", "lm_head/kernel"),
        ("multiple_choice_head.summary.bias", "multiple_choice_head.summary.bias",
         "multiple_choice_head/summary/bias", "multiple_choice_head/summary/bias"),
    ],
)  # fmt: skip
def test_names_are_those_of_transformers(canonical, pt, tf, flax):
    spelled = [spelling.spell(canonical) for spelling in (PYTORCH, TENSORFLOW, FLAX)]
    assert spelled == [pt, tf, flax]


def test_layouts_are_those_of_transformers():
    square = "h.0.attn.c_proj.weight"  # a shape could not tell (in, out) from (out, in)
    assert PYTORCH.layout(square) is Layout.SAME
    assert TENSORFLOW.layout(square) is Layout.SAME
    assert FLAX.layout(square) is Layout.TRANSPOSED
    assert TENSORFLOW.layout("h.0.attn.c_proj.bias") is Layout.ROW
    assert TENSORFLOW.layout("score.weight") is Layout.TRANSPOSED


@pytest.mark.parametrize(("layout", "shape"), [(Layout.SAME, (2, 3)), (Layout.TRANSPOSED, (2, 3)),
                                               (Layout.ROW, (3,))])  # fmt: skip
def test_layouts_invert_without_a_copy(layout, shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    stored = layout.from_canonical(array)
    assert stored.shape == layout.shape(shape)
    assert np.shares_memory(stored, array)
    np.testing.assert_array_equal(layout.to_canonical(stored), array)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("transformer.h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"),
        ("h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"),
        ("module.transformer.wte.weight", "wte.weight"),
        ("_orig_mod.module.lm_head.weight", "lm_head.weight"),
        ("h.3.ln_2.gamma", "h.3.ln_2.weight"),
        ("transformer.ln_f.beta", "ln_f.bias"),
        ("transformer.h.0.attn.bias", None),
        ("h.0.attn.masked_bias", None),
        ("h.11.crossattention.bias", None),
        ("adapter.weight", "adapter.weight"),
    ],
)
def test_pytorch_keys_of_every_age_become_canonical(name, canonical):
    assert canonical_pytorch_name(name) == canonical


def test_a_foreign_name_is_refused():
    with pytest.raises(InvalidInputError, match="adapter/kernel"):
        TENSORFLOW.canonical("transformer/adapter/kernel")


def test_a_tied_head_is_no_parameter_of_its_own():
    assert "lm_head.weight" in parameter_shapes(config(), Head.LM)
    assert "lm_head.weight" not in parameter_shapes(config(tie_word_embeddings=True), Head.LM)


def test_double_heads_score_one_number_a_choice_whatever_num_labels():
    shapes = parameter_shapes(config(num_labels=7), Head.DOUBLE)
    assert shapes["multiple_choice_head.summary.weight"] == (1, 24)
