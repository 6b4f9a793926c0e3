"""Speculation in a backend: the same texts as without it, on a model's own cache.

A backend's `tests/.../test_speculation.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation.generate import steps
from support.contract.backend import Backend, assert_close

# A repeated text, so that a lookup finds something; a padded row; the lengths differ as they go on.
PROMPTS = np.array([[1, 2, 3, 1, 2], [0, 0, 4, 5, 4], [7, 3, 7, 3, 7]])
MASK = np.array([[1] * 5, [0, 0, 1, 1, 1], [1] * 5])
LOOKUP = {"prompt_lookup_num_tokens": 3}
GREEDY = {"max_new_tokens": 14, "repetition_penalty": 1.3}
SAMPLING = {"do_sample": True, "top_k": 8, "seed": 3, "max_new_tokens": 14}


class SpeculationContract:
    """Drafts, however they are made, change no text."""

    backend: Backend
    #: Further arguments of `generate` for the ways in which the backend runs a loop.
    ways: tuple[dict[str, Any], ...] = ({},)

    @pytest.fixture
    def model(self) -> Any:
        # Large weights: a tiny model with small ones repeats one token.
        return self.backend.model(initializer_range=0.4, eos_token_id=9)

    def write(self, model: Any, **options: Any) -> Any:
        given = {"attention_mask": self.backend.tensor(MASK), "pad_token_id": 0, **options}
        return model.generate(self.backend.tensor(PROMPTS), **given)

    def texts(self, model: Any, **options: Any) -> np.ndarray:
        return self.backend.array(self.write(model, **options))

    def drafting(self, model: Any) -> list[dict[str, Any]]:
        """Return the ways of making drafts, as arguments of `generate`."""
        return [LOOKUP]

    @pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
    def test_texts_are_those_without_drafts(self, model, options):
        plain = self.texts(model, **options)
        assert len({tuple(row) for row in plain.tolist()}) == 3
        for drafting in self.drafting(model):
            for way in self.ways:
                np.testing.assert_array_equal(
                    self.texts(model, **options, **drafting, **way), plain
                )

    def test_a_text_may_fill_every_position_and_one_more(self, model):
        options = {"max_length": model.config.n_positions + 1, "eos_token_id": None}
        plain = self.texts(model, **options)
        assert plain.shape[1] == model.config.n_positions + 1
        for drafting in self.drafting(model):
            np.testing.assert_array_equal(self.texts(model, **options, **drafting), plain)

    def test_scores_and_cache_are_those_without_drafts(self, model):
        options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        options |= {**SAMPLING, "eos_token_id": None}
        plain = self.write(model, **options)
        for drafting in self.drafting(model):
            output = self.write(model, **options, **drafting)
            for name in ("scores", "logits"):
                for found, expected in zip(output[name], plain[name], strict=True):
                    assert_close(self.backend.array(found), self.backend.array(expected))
            past, expected = output.past_key_values, plain.past_key_values
            assert past.length == expected.length
            assert_close(self.backend.array(past[1][0]), self.backend.array(expected[1][0]))

    def test_steps_yield_the_tokens_that_all_rows_have(self, model):
        for drafting in self.drafting(model):
            kwargs = {"input_ids": self.backend.tensor(PROMPTS), **SAMPLING, **drafting}
            seed = kwargs.pop("seed")
            found = [
                self.backend.array(tokens)
                for tokens in steps(model.generation_host(), kwargs=kwargs, seed=seed)
            ]
            expected = self.backend.array(model.generate(self.backend.tensor(PROMPTS), **SAMPLING))
            np.testing.assert_array_equal(np.stack(found, axis=1), expected[:, 5:])

    def test_what_cannot_be_combined_is_refused(self, model):
        for drafting in self.drafting(model):
            for other in ({"num_beams": 2}, {"use_cache": False}):
                with pytest.raises(InvalidInputError, match="cannot be combined with"):
                    self.write(model, **drafting, **other)
