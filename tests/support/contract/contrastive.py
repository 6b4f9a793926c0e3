"""Contrastive search in a backend: what it returns, and the forms of prompts that it takes.

A backend's `tests/.../test_contrasts.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend, assert_close

PROMPTS = np.array([[1, 2, 3, 1, 2], [0, 0, 4, 5, 4], [7, 3, 7, 3, 8]])
MASK = np.array([[1] * 5, [0, 0, 1, 1, 1], [1] * 5])
SEARCH = {"penalty_alpha": 0.5, "top_k": 4, "max_new_tokens": 6, "pad_token_id": 60}


class ContrastiveContract:
    """The search reads the hidden states of the whole text, and returns those of its tokens."""

    backend: Backend

    @pytest.fixture
    def model(self) -> Any:
        return self.backend.model(initializer_range=0.4, eos_token_id=None)

    def write(self, model: Any, **options: Any) -> Any:
        mask = self.backend.tensor(MASK)
        return model.generate(**{"attention_mask": mask, **SEARCH, **options})

    def test_attentions_and_hidden_states_are_those_of_the_text(self, model):
        options = {f"output_{name}": True for name in ("attentions", "hidden_states")}
        ids = self.backend.tensor(PROMPTS)
        output = self.write(model, input_ids=ids, return_dict_in_generate=True, **options)
        text = self.backend.array(output.sequences)
        mask = np.concatenate([MASK, np.ones((3, 6), MASK.dtype)], axis=1)
        whole = self.backend.call(model, text, attention_mask=mask, **options)
        for layer, expected in enumerate(map(self.backend.array, whole.attentions)):
            for step, found in enumerate(self.backend.array(x[layer]) for x in output.attentions):
                stop = 5 + step
                rows = slice(stop - 1, stop) if step else slice(2, stop)
                assert_close(found[:, :, -rows.stop + rows.start :], expected[:, :, rows, :stop])
        for layer, expected in enumerate(map(self.backend.array, whole.hidden_states)):
            steps = [self.backend.array(x[layer]) for x in output.hidden_states]
            assert [step.shape[1] for step in steps] == [5, 1, 1, 1, 1, 1]
            assert_close(np.concatenate(steps, axis=1)[:, 2:], expected[:, 2:10])

    def test_a_prompt_may_be_cached_or_embeddings(self, model):
        ids = self.backend.tensor(PROMPTS)
        texts = self.backend.array(self.write(model, input_ids=ids))
        prefix = self.backend.tensor(PROMPTS[:, :3])
        cache = model.prefill(prefix, attention_mask=self.backend.tensor(MASK[:, :3]))
        cached = self.write(model, input_ids=ids, past_key_values=cache)
        np.testing.assert_array_equal(self.backend.array(cached), texts)
        other = self.backend.tensor(PROMPTS + 1)
        with pytest.raises(InvalidInputError, match="Prompt 0 does not begin with the text of"):
            self.write(model, input_ids=other, past_key_values=cache)

        embeds = model.get_input_embeddings()(ids)
        new = self.backend.array(self.write(model, inputs_embeds=embeds))
        np.testing.assert_array_equal(new, texts[:, 5:])
