"""Text constrained to a grammar, in TensorFlow."""

from __future__ import annotations

import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf import TFGPT2Tokenizer
from support.contract.grammar import IDS, TOKENIZER, GrammarContract
from support.grammars import EOS, GRAMMARS, VOCAB_SIZE, texts_of
from support.tf_models import BACKEND, tiny_model


class TestGrammars(GrammarContract):
    backend = BACKEND

    def test_another_grammar_traces_nothing(self):
        self.generate("regex")
        traces = len(self.model._functions._functions)
        self.generate("regex", regex="(the)+[ab]{2}")
        assert len(self.model._functions._functions) == traces


def test_the_tokenizer_may_be_a_layer():
    model = tiny_model(vocab_size=VOCAB_SIZE, n_positions=128, eos_token_id=EOS)
    arguments, is_valid = GRAMMARS["regex"]
    layer = TFGPT2Tokenizer.from_tokenizer(TOKENIZER)
    rows = model.generate(IDS, max_new_tokens=60, tokenizer=layer, **arguments)
    assert all(map(is_valid, texts_of(rows, IDS.shape[1], TOKENIZER)))


def test_inside_a_graph_it_is_refused():
    model = tiny_model(vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    options = {"regex": "a", "tokenizer": TOKENIZER}
    generate = tf.function(lambda ids: model.generate(ids, **options), autograph=False)
    with pytest.raises(InvalidInputError, match=r"return to the host.*grammars"):
        generate(tf.constant(IDS))
