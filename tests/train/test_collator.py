"""Batches for training loops of one's own."""

import json

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.errors import InvalidInputError
from gpt2x.train import DataCollatorForLanguageModeling
from support.golden_data import GOLDEN

GIVEN = json.loads((GOLDEN / "training" / "collator.json").read_text("utf-8"))


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


@pytest.mark.parametrize(
    "case",
    GIVEN["cases"],
    ids=lambda case: "-".join(str(value) for value in [*case.values()][:3]),
)
def test_batches_are_those_of_transformers(case):
    if case["return_tensors"] == "pt":
        pytest.importorskip("torch")
    options = {"pad_token": GIVEN["pad_token"], "padding_side": case["padding_side"]}
    tokenizer = GPT2TokenizerFast.from_pretrained(GOLDEN / "tokenizer" / "tiny_5", **options)
    collate = DataCollatorForLanguageModeling(
        tokenizer,
        mlm=False,
        pad_to_multiple_of=case["pad_to_multiple_of"],
        return_tensors=case["return_tensors"],
    )
    batch = collate(GIVEN["features"])
    assert {name: array.tolist() for name, array in batch.items()} == case["batch"]
    assert {name: str(array.dtype) for name, array in batch.items()} == case["dtypes"]


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
