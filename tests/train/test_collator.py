"""Batches for training loops of one's own."""

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.errors import InvalidInputError
from gpt2x.train import DataCollatorForLanguageModeling


@pytest.fixture
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


def test_rows_are_padded_and_padding_has_no_label(tokenizer):
    end = tokenizer.eos_token_id
    collate = DataCollatorForLanguageModeling(
        tokenizer, mlm=False, pad_to_multiple_of=4, return_tensors="np"
    )
    batch = collate([{"input_ids": [5, 6, end], "attention_mask": [1, 1, 1]}, np.array([8])])
    assert batch["input_ids"].tolist() == [[5, 6, end, end], [8, end, end, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, end, -100], [8, -100, -100, -100]]
    tokenizer.padding_side = "left"
    assert collate([[5, 6, 7, 8, 9], [8]])["labels"].tolist() == [
        [-100] * 3 + [5, 6, 7, 8, 9],
        [-100] * 7 + [8],
    ]


def test_it_takes_what_the_tokenizer_gives(tokenizer):
    texts = ["In the beginning", "God"]
    collate = DataCollatorForLanguageModeling(tokenizer, return_tensors="np")
    batch = collate([tokenizer(text) for text in texts])
    tokenizer.pad_token = tokenizer.eos_token
    expected = tokenizer(texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(batch["attention_mask"], expected["attention_mask"])


def test_masked_tokens_are_refused(tokenizer):
    with pytest.raises(InvalidInputError, match="mlm=False"):
        DataCollatorForLanguageModeling(tokenizer, mlm=True)
