"""Loops of users in a backend: `generate(custom_generate=function)`.

A backend's `tests/.../test_custom.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend

PROMPTS = np.array([[1, 2, 3, 1, 2], [0, 0, 4, 5, 4]])
MASK = np.array([[1] * 5, [0, 0, 1, 1, 1]])
OPTIONS = {"max_new_tokens": 2, "eos_token_id": None, "pad_token_id": 0, "suppress_tokens": [7, 9]}


class CustomContract:
    """A loop of the user's gets what a strategy would, and returns what it likes."""

    backend: Backend

    @pytest.fixture
    def model(self) -> Any:
        return self.backend.model(initializer_range=0.4)

    def write(self, model: Any, **options: Any) -> Any:
        given = {"attention_mask": self.backend.tensor(MASK), **OPTIONS, **options}
        return model.generate(self.backend.tensor(PROMPTS), **given)

    def test_a_loop_of_its_own_writes_what_greedy_search_does(self, model):
        def loop(model, input_ids, attention_mask, logits_processor, stopping_criteria,
                 generation_config, shift=0, use_cache=None, **model_kwargs):  # fmt: skip
            text = self.backend.array(input_ids)
            mask = self.backend.array(attention_mask)
            assert use_cache
            while text.shape[1] < stopping_criteria[0].max_length:
                logits = self.backend.logits(model, text, attention_mask=mask)[:, -1]
                scores = logits_processor(self.backend.tensor(text), self.backend.tensor(logits))
                chosen = self.backend.array(scores).argmax(axis=-1)[:, None] + shift
                text, mask = (
                    np.concatenate([array, new], axis=1)
                    for array, new in ((text, chosen), (mask, np.ones_like(chosen)))
                )
            ended = stopping_criteria(self.backend.tensor(text), None)
            assert self.backend.array(ended).all()
            assert generation_config.max_length == text.shape[1]
            return text

        plain = self.backend.array(self.write(model))
        np.testing.assert_array_equal(self.write(model, custom_generate=loop), plain)
        shifted = self.write(model, custom_generate=loop, shift=1, max_new_tokens=1)
        np.testing.assert_array_equal(shifted[:, 5], plain[:, 5] + 1)

    def test_rows_are_repeated_and_settings_are_checked_before(self, model):
        def loop(model, input_ids, **arguments):
            return input_ids, sorted(arguments)

        options = {"custom_generate": loop, "num_return_sequences": 2, "do_sample": True}
        ids, names = self.write(model, **options, top_k=5, temperature=0.5)
        np.testing.assert_array_equal(self.backend.array(ids), np.repeat(PROMPTS, 2, axis=0))
        assert {"attention_mask", "logits_processor", "stopping_criteria"} < {*names}
        for wrong, message in (
            ({"repetition_penalty": -1.0}, "repetition_penalty"),
            ({"unknown": 1}, "unknown"),
            ({"guidance_scale": 2.0}, "guidance_scale cannot be combined with custom_generate"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                self.write(model, custom_generate=loop, **wrong)

    def test_names_run_no_code_but_built_in_strategies(self, model):
        with pytest.raises(InvalidInputError, match="run no code here"):
            self.write(model, custom_generate="someone/repository", trust_remote_code=True)
        name = "transformers-community/contrastive-search"
        output = self.write(model, custom_generate=name, trust_remote_code=True)
        assert output.shape == (2, 7)
        with pytest.raises(InvalidInputError, match="synced_gpus"):
            self.write(model, synced_gpus=True)
        assert self.write(model, synced_gpus=False).shape == (2, 7)
