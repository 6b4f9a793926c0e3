"""`train_new_from_iterator`."""

from __future__ import annotations

import pytest

from gpt2x.errors import InvalidInputError

TEXTS = ["the cat sat on the mat, the cat's mat", "naïve naïve naïve 語語語"] * 3


def test_a_new_vocabulary_with_the_settings_of_the_old(tiny):
    tiny.padding_side = "left"
    tiny.add_bos_token = True
    new = tiny.train_new_from_iterator(
        iter([TEXTS]), 280, new_special_tokens=["<new>"], special_tokens_map={"<sep>": "<cut>"}
    )
    assert type(new) is type(tiny)
    assert len(new) == 280
    assert list(new.get_added_vocab()) == ["<|endoftext|>", "<cut>", "<new>"]
    assert list(new.get_added_vocab().values()) == [0, 1, 2]
    assert new.pad_token_id == 0
    assert new.additional_special_tokens == ["<new>"]
    assert (new.padding_side, new.add_bos_token, new.model_max_length) == ("left", True, 40)
    text = "the cat<cut> naïve<new>"
    assert new.decode(new(text)["input_ids"][1:]) == text
    assert len(new("naïve")["input_ids"]) < len(tiny("naïve")["input_ids"])
    assert len(tiny) == 409


def test_both_classes_learn_the_same(tiny_folder):
    from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast

    slow, fast = (
        cls.from_pretrained(tiny_folder).train_new_from_iterator(TEXTS, 290, min_frequency=2)
        for cls in (GPT2Tokenizer, GPT2TokenizerFast)
    )
    assert slow.get_vocab() == fast.get_vocab()
    assert slow.bpe_ranks == fast.bpe_ranks


def test_saved_and_loaded(tiny, tmp_path):
    new = tiny.train_new_from_iterator(TEXTS, 280)
    new.save_pretrained(tmp_path)
    again = type(tiny).from_pretrained(tmp_path)
    assert again(TEXTS)["input_ids"] == new(TEXTS)["input_ids"]


def test_a_vocabulary_less_than_the_bytes(tiny, caplog):
    new = tiny.train_new_from_iterator(TEXTS, 257)
    assert (
        "vocab_size is 257, but the 256 bytes and the 2 special tokens alone are 258" in caplog.text
    )
    assert len(new) == 258
    assert new.decode(new(TEXTS)["input_ids"][0]) == TEXTS[0]


def test_arguments_that_are_no_settings_stay(tiny):
    tiny.init_kwargs["unheard_of"] = 1
    assert tiny.train_new_from_iterator(TEXTS, 280).init_kwargs["unheard_of"] == 1


def test_what_is_refused(tiny):
    with pytest.raises(InvalidInputError, match="min_frequence"):
        tiny.train_new_from_iterator(TEXTS, 280, min_frequence=2)
