"""`BatchEncoding`, and what GPT2TokenizerFast knows about words and characters."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization import BatchEncoding, CharSpan, GPT2Tokenizer, TokenSpan

TEXT = "Hello  wörld 😀!<|endoftext|> end"


@pytest.fixture(scope="module")
def fast(gpt2_tokenizers):
    return gpt2_tokenizers["fast"]


@given(text=st.text())
def test_offsets_point_at_the_tokens(fast, text):
    encoded = fast(text, return_offsets_mapping=True)
    position = 0
    for (start, end), token_id in zip(encoded["offset_mapping"], encoded["input_ids"], strict=True):
        assert start <= position <= end
        position = max(position, end)
        piece = fast.decode([token_id])
        assert "\ufffd" in piece or text[start:end] == piece
    assert position == len(text)


@given(text=st.text())
def test_words_are_those_of_the_pattern(fast, text):
    from gpt2x.tokenization.pretokenization import split_words

    encoded = fast(text)
    words = split_words(text)
    assert sorted(set(encoded.word_ids())) == list(range(len(words)))
    for number, word in enumerate(words):
        start, end = encoded.word_to_chars(number)
        assert text[start:end] == word


def test_tokens_words_and_characters(fast):
    encoded = fast(TEXT, "Second text")
    assert encoded.tokens()[:7] == ["Hello", "Ġ", "Ġw", "Ã¶r", "ld", "ĠðŁĺ", "Ģ"]
    assert encoded.word_ids()[:7] == [0, 1, 2, 2, 2, 3, 3]
    assert encoded.sequence_ids()[-2:] == [1, 1]
    assert encoded.n_sequences == 2
    assert encoded.is_fast
    assert encoded.token_to_word(3) == 2
    assert encoded.token_to_word(0, 3) == 2
    assert encoded.token_to_sequence(-1) == 1
    assert encoded.token_to_chars(5) == CharSpan(12, 14)
    assert encoded.char_to_token(13) == 5
    assert encoded.char_to_word(8) == 2
    assert encoded.word_to_tokens(2) == TokenSpan(2, 5)
    assert encoded.word_to_chars(2) == CharSpan(6, 12)
    assert encoded.word_to_chars(1, sequence_index=1) == CharSpan(6, 11)
    assert encoded.char_to_token(0, sequence_index=1) == encoded.tokens().index("Second")
    assert encoded.char_to_token(99) is None
    assert encoded.char_to_word(99) is None
    assert encoded.word_to_tokens(99) is None
    with pytest.raises(InvalidInputError, match="outside a row"):
        encoded.token_to_chars(99)
    with pytest.warns(FutureWarning, match="word_ids"):
        assert encoded.words() == encoded.word_ids()


def test_special_tokens_and_padding_are_in_no_text(gpt2_files):
    from gpt2x.tokenization import GPT2TokenizerFast

    fast = GPT2TokenizerFast(*gpt2_files, add_bos_token=True, pad_token="<|endoftext|>")
    encoded = fast("a b", padding="max_length", max_length=5, return_offsets_mapping=True)
    assert encoded.tokens() == ["<|endoftext|>", "a", "Ġb", "<|endoftext|>", "<|endoftext|>"]
    assert encoded.word_ids() == [None, 0, 1, None, None]
    assert encoded["offset_mapping"] == [(0, 0), (0, 1), (1, 3), (0, 0), (0, 0)]
    assert encoded.token_to_chars(0) is None
    assert encoded.token_to_sequence(4) is None


def test_words_that_were_given(fast):
    encoded = fast(["Hello", "wörld!"], is_split_into_words=True, return_offsets_mapping=True)
    assert encoded.word_ids() == [0, 1, 1, 1, 1]
    assert encoded["offset_mapping"] == [(0, 5), (0, 1), (1, 3), (3, 5), (5, 6)]
    assert encoded.word_to_tokens(1) == (1, 5)


def test_rows_of_overflow_know_their_place(fast):
    encoded = fast(TEXT, truncation=True, max_length=4, return_overflowing_tokens=True)
    assert encoded.word_ids(1) == [2, 3, 3, 3]
    assert encoded.token_to_chars(1, 0) == CharSpan(10, 12)
    assert len(encoded[0].overflowing) == len(encoded["input_ids"]) - 1


def test_dictionary_and_object(tiny):
    encoded = tiny(["a", "b c"])
    assert list(encoded) == ["input_ids", "attention_mask"]
    assert encoded.input_ids is encoded["input_ids"]
    assert encoded.data == dict(encoded.items())
    with pytest.raises(AttributeError, match="Did you mean 'input_ids'"):
        _ = encoded.input_id
    with pytest.raises(KeyError):
        _ = encoded["labels"]
    if tiny.is_fast:
        assert encoded[1].ids == encoded["input_ids"][1]
        assert [row.ids for row in encoded[0:2]] == encoded["input_ids"]
    else:
        assert encoded[0:1] == {"input_ids": encoded["input_ids"][:1], "attention_mask": [[1]]}


def test_pickle(tiny):
    encoded = tiny(TEXT, return_tensors="np")
    again = pickle.loads(pickle.dumps(encoded))
    assert again["input_ids"].tolist() == encoded["input_ids"].tolist()
    if tiny.is_fast:
        assert again.word_ids() == encoded.word_ids()


def test_the_slow_class_says_who_knows(gpt2_tokenizers):
    encoded = gpt2_tokenizers["slow"](TEXT)
    assert not encoded.is_fast
    assert encoded.encodings is None
    for ask in (
        encoded.word_ids,
        encoded.tokens,
        lambda: encoded.char_to_token(0),
        lambda: encoded[0],
    ):
        with pytest.raises(InvalidInputError, match="GPT2TokenizerFast"):
            ask()


def test_ragged_rows_cannot_become_tensors(tiny):
    with pytest.raises(InvalidInputError, match="Pass padding=True"):
        tiny(["a", "b c"], return_tensors="np")


def test_convert_to_tensors():
    encoded = BatchEncoding({"input_ids": [1, 2]}, tensor_type="np", prepend_batch_axis=True)
    assert encoded["input_ids"].shape == (1, 2)
    assert encoded["input_ids"].dtype == np.int64
    assert BatchEncoding({"x": [[], []]}, tensor_type="np")["x"].dtype == np.int64
    assert GPT2Tokenizer.is_fast is False
