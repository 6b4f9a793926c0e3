"""Names of weights as each framework spells them, read back to the canonical ones."""

from __future__ import annotations

import doctest

import pytest

from gpt2x.config import GPT2Config
from gpt2x.weights import names
from gpt2x.weights.table import FLAX, TENSORFLOW, Head, parameter_shapes


def test_examples_in_docstrings():
    assert doctest.testmod(names).failed == 0


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
