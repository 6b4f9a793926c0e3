"""Token healing by a backend's models, against transformers' own on a small vocabulary.

A backend's `tests/.../test_healing.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization import GPT2Tokenizer
from support.contract.backend import Backend
from support.golden_data import GOLDEN, load_json

CASES = load_json("healing/tiny.json")


class HealingContract:
    """`heal_tokens`, and `generate(token_healing=True)`."""

    backend: Backend

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Any:
        return cls.backend.kind("LMHeadModel").from_pretrained(GOLDEN / "healing")

    @pytest.fixture
    def tokenizer(self) -> GPT2Tokenizer:
        folder = GOLDEN / "tokenizer" / "tiny_slow_4"
        options = {"pad_token": "<|endoftext|>", "padding_side": "left"}
        return GPT2Tokenizer.from_pretrained(folder, **options)

    def test_prompts_are_healed_as_by_transformers(self, model, tokenizer):
        for case in CASES:
            tokenizer.padding_side = case["padding_side"]
            ids = self.backend.tensor(np.array(case["input_ids"], np.int32))
            healed = model.heal_tokens(ids, tokenizer)
            assert type(healed) is type(ids)
            assert self.backend.array(healed).tolist() == case["healed"]

    def test_texts_after_healed_prompts_are_those_of_transformers(self, model, tokenizer):
        options = {"token_healing": True, "tokenizer": tokenizer, "max_new_tokens": 6}
        for case in CASES:
            if "text" in case:
                ids = self.backend.tensor(np.array(case["input_ids"], np.int32))
                text = model.generate(ids, **options)
                assert self.backend.array(text).tolist() == case["text"]

    def test_a_row_is_healed_as_it_is_alone(self, model, tokenizer):
        alone = [case for case in CASES if "text" in case]
        prompts = [case["input_ids"][0] for case in alone]
        width = max(map(len, prompts))
        ids, mask = np.zeros((2, len(prompts), width), np.int32)
        for row, prompt in enumerate(prompts):  # padding on the right, with any token
            ids[row, : len(prompt)] = prompt
            mask[row, : len(prompt)] = 1
        text = model.generate(
            self.backend.tensor(ids),
            attention_mask=self.backend.tensor(mask),
            token_healing=True,
            tokenizer=tokenizer,
            max_new_tokens=6,
        )
        for row, case in zip(self.backend.array(text).tolist(), alone, strict=True):
            expected = case["text"][0]
            assert row[-len(expected) :] == expected
            assert set(row[: -len(expected)]) <= {0}

    def test_what_goes_with_the_tokens_given_is_refused(self, model, tokenizer):
        ids = self.backend.tensor(np.array([[7, 8]], np.int32))
        with pytest.raises(InvalidInputError, match="pass it as tokenizer="):
            model.generate(ids, token_healing=True)
        with pytest.raises(InvalidInputError, match="so token_type_ids cannot be given"):
            model.generate(ids, token_type_ids=ids, token_healing=True, tokenizer=tokenizer)
        with pytest.raises(InvalidInputError, match="input_ids has shape"):
            model.heal_tokens(ids[0], tokenizer)
        with pytest.raises(InvalidInputError, match="input_ids holds 900"):
            model.heal_tokens(ids + 892, tokenizer)
