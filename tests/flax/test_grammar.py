"""Text constrained to a grammar, in Flax."""

from __future__ import annotations

import jax
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.grammar import IDS, TOKENIZER, GrammarContract
from support.flax_models import BACKEND, tiny_model
from support.grammars import EOS, VOCAB_SIZE


class TestGrammars(GrammarContract):
    backend = BACKEND

    def test_another_grammar_compiles_nothing(self, compiled):
        self.generate("regex")
        compiled.clear()
        self.generate("regex", regex="(the)+[ab]{2}")
        assert compiled == []


def test_inside_jit_it_is_refused():
    model = tiny_model(vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    generate = jax.jit(lambda ids: model.generate(ids, regex="a", tokenizer=TOKENIZER))
    with pytest.raises(InvalidInputError, match=r"return to the host.*grammars"):
        generate(IDS)
