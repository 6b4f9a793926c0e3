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
    #: Further arguments of `generate`, for other ways in which the backend runs a loop.
    ways: tuple[dict[str, Any], ...] = ()

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
        assistant = self.backend.model(initializer_range=0.41, n_layer=1, n_embd=12)
        schedule = "heuristic"
        return [
            LOOKUP,
            {"assistant_model": assistant, "num_assistant_tokens": 3},
            {"assistant_early_exit": 1, "num_assistant_tokens_schedule": schedule},
        ]

    @pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
    def test_texts_are_those_without_drafts(self, model, options):
        plain = self.texts(model, **options)
        assert len({tuple(row) for row in plain.tolist()}) == 3
        # Each further way of running the loop once: what differs between drafts is not in it.
        cases = [(drafting, {}) for drafting in self.drafting(model)]
        cases += [(cases[-1][0], way) for way in self.ways]
        for drafting, way in cases:
            np.testing.assert_array_equal(self.texts(model, **options, **drafting, **way), plain)

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

    def test_attentions_and_hidden_states_are_those_without_drafts(self, model):
        names = ("attentions", "hidden_states")
        options = {"return_dict_in_generate": True, **{f"output_{name}": True for name in names}}
        options |= {**SAMPLING, "max_new_tokens": 8}
        plain = self.write(model, **options, eos_token_id=None)
        new = self.backend.array(plain.sequences)[:, PROMPTS.shape[1] :].tolist()
        end = new[1][4]
        lengths = [row.index(end) + 1 if end in row else 8 for row in new]
        assert min(lengths) < max(lengths)
        for drafting in self.drafting(model)[:2]:
            output = self.write(model, **options, **drafting, eos_token_id=end)
            for name in names:
                assert len(output[name]) == max(lengths)
                for step, layers in enumerate(output[name]):
                    found = np.stack([self.backend.array(layer) for layer in layers], axis=1)
                    expected = np.stack([self.backend.array(x) for x in plain[name][step]], axis=1)
                    assert found.shape == expected.shape
                    for row, length in enumerate(lengths):
                        if step < length:
                            assert_close(found[row], expected[row])
                        else:
                            assert not found[row].any()

    def test_steps_yield_the_tokens_that_all_rows_have(self, model):
        for drafting in self.drafting(model):
            kwargs = {"input_ids": self.backend.tensor(PROMPTS), **SAMPLING, **drafting}
            others = {name: kwargs.pop(name, None) for name in ("seed", "assistant_model")}
            found = [
                self.backend.array(tokens)
                for tokens in steps(model.generation_host(), kwargs=kwargs, **others)
            ]
            expected = self.backend.array(model.generate(self.backend.tensor(PROMPTS), **SAMPLING))
            np.testing.assert_array_equal(np.stack(found, axis=1), expected[:, 5:])

    def test_what_cannot_be_combined_is_refused(self, model):
        for drafting in self.drafting(model):
            for other in ({"num_beams": 2}, {"use_cache": False}):
                with pytest.raises(InvalidInputError, match="cannot be combined with"):
                    self.write(model, **drafting, **other)
        with pytest.raises(InvalidInputError, match="two ways to make drafts"):
            self.write(model, **LOOKUP, assistant_early_exit=1)

    def test_what_cannot_assist_is_refused(self, model):
        body, other = self.backend.model("Model"), self.backend.model(vocab_size=70)
        short = self.backend.model(n_positions=16)
        for assistant, message in (
            (object(), "language-model head.*got object"),
            (body, f"language-model head.*got {type(body).__name__}"),
            (other, "vocabulary of 70 tokens and the model one of 61"),
            (short, "needs an assistant of 24 positions or more .* this one has 16"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                self.write(model, assistant_model=assistant, max_new_tokens=20)
        for layers in (0, model.config.n_layer):
            with pytest.raises(InvalidInputError, match="assistant_early_exit"):
                self.write(model, assistant_early_exit=layers)
        with pytest.raises(InvalidInputError, match="assistant_tokenizer, which is not available"):
            self.write(model, assistant_model=model, assistant_tokenizer=object())

    def test_early_exit_shares_the_parameters_and_leaves_the_model(self, model):
        before = self.backend.logits(model, PROMPTS)
        host = model.generation_host()
        part = host.early_exit(1)
        assert len(part.base_model.h) == 1
        assert part.base_model.h[0] is model.base_model.h[0]
        assert part.get_input_embeddings() is model.get_input_embeddings()
        assert len(model.base_model.h) == model.config.n_layer
        alone = self.backend.logits(part, PROMPTS)
        assert alone.shape == before.shape
        assert abs(alone - before).max() > 0.1
        assert_close(self.backend.logits(model, PROMPTS), before)
