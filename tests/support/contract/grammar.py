"""What a grammar does in every backend: all texts are of it, whatever the options.

A backend's `tests/.../test_grammar.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend
from support.grammars import EOS, GRAMMARS, VOCAB_SIZE, small_tokenizer, texts_of

TOKENIZER = small_tokenizer()
IDS = np.random.default_rng(0).integers(0, 256, (2, 4))
MASK = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": {"do_sample": True, "temperature": 1.5, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


class GrammarContract:
    """Texts of a grammar, from left-padded prompts."""

    backend: Backend

    @property
    def model(self) -> Any:
        return self.backend.model(
            vocab_size=VOCAB_SIZE, n_positions=128, eos_token_id=EOS, bos_token_id=EOS
        )

    def generate(self, name: str, **options: Any) -> np.ndarray:
        ids = self.model.generate(
            self.backend.tensor(IDS),
            attention_mask=self.backend.tensor(MASK),
            tokenizer=TOKENIZER,
            **{"max_new_tokens": 100, "seed": 5, **GRAMMARS[name][0], **options},
        )
        return self.backend.array(ids)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", GRAMMARS)
    def test_texts_are_of_the_grammar(self, name, mode):
        rows = self.generate(name, **MODES[mode])
        texts = texts_of(rows, IDS.shape[1], TOKENIZER)
        assert len(texts) == 2 * MODES[mode].get("num_return_sequences", 1)
        assert all(map(GRAMMARS[name][1], texts)), texts

    def test_streamed_texts_and_a_seed_repeat_them(self):
        steps: list[list[int]] = []
        options = {"do_sample": True, "temperature": 1.5}
        streamed = self.generate("json_schema", streamer=steps.append, **options)
        np.testing.assert_array_equal(np.transpose(steps), streamed[:, IDS.shape[1] :])
        np.testing.assert_array_equal(self.generate("json_schema", **options), streamed)
        other = self.generate("json_schema", **{**options, "seed": 6})
        assert other.shape != streamed.shape or (other != streamed).any()

    def test_a_grammar_that_cannot_be_used_is_refused(self):
        with pytest.raises(InvalidInputError, match="got regex= and choices="):
            self.generate("regex", choices=["a"])
        with pytest.raises(InvalidInputError, match="regex= cannot be used"):
            self.generate("regex", regex="a(")
        with pytest.raises(InvalidInputError, match="needs an eos token"):
            self.generate("regex", eos_token_id=-1)
