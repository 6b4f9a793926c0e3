"""Both tokenizers give the same ids for every string, and decoding gives the string back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.tokenization.bpe import token_to_bytes
from gpt2x.tokenization.unicode import character_classes

PIECES = st.sampled_from(
    [
        *" \n\t'\u00a0\u3000\u0301\u200b\0",
        "'s",
        "'ll",
        " the",
        "The",
        "  ",
        "123",
        "é",
        "語",
        "😀",
        "<|endoftext|>",
        " <|endoftext|> ",
        "<mask>",
        " <mask> ",
        "<pad>",
        "[X]",
        "[XY]",
        "cat",
        "_",
    ]
)
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.one_of(PIECES, CHARACTERS)).map("".join)


@pytest.fixture(scope="module")
def pair(gpt2_files):
    """Both classes with GPT-2's vocabulary and added tokens of every kind."""
    tokenizers = [cls(*gpt2_files) for cls in (GPT2Tokenizer, GPT2TokenizerFast)]
    for tokenizer in tokenizers:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        tokenizer.add_tokens(
            [
                AddedToken("<mask>", lstrip=True, rstrip=True),
                AddedToken("[X]", lstrip=True, normalized=False),
                AddedToken("[XY]", rstrip=True),
                AddedToken("cat", single_word=True),
            ]
        )
    return tokenizers


@settings(max_examples=400)
@given(TEXTS, st.booleans())
@example("", False)
@example("<mask>  <mask>", True)
@example("[X] [XY] cat_ cat\u0301 1cat ²cat", False)
def test_both_give_the_same_ids(pair, text, add_prefix_space):
    slow, fast = (t(text, add_prefix_space=add_prefix_space)["input_ids"] for t in pair)
    assert slow == fast


@settings(max_examples=300)
@given(st.lists(TEXTS, min_size=1))
def test_both_give_the_same_ids_for_words(pair, words):
    slow, fast = (t(words, is_split_into_words=True)["input_ids"] for t in pair)
    assert slow == fast


@settings(max_examples=400)
@given(text=TEXTS)
@example(text="\x1c\x85\u2028\ufeff")
def test_decoding_gives_the_text_back(gpt2_tokenizers, text):
    for tokenizer in gpt2_tokenizers.values():
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_code_points_in_context(gpt2_tokenizers):
    """After a number, before a contraction, between spaces: where its class changes ids.

    test_unicode.py looks at every code point; here are the ends of every range of a class, and one
    in 31 of the others.
    """
    classes = character_classes()
    ends = np.flatnonzero(np.diff(classes))
    code_points = np.unique(np.concatenate([ends, ends + 1, np.arange(0, 0x110000, 31)]))
    characters = [chr(c) for c in code_points.tolist() if not 0xD800 <= c < 0xE000]
    texts = [
        "".join(f"1{character}'s " for character in characters[start : start + 1000])
        for start in range(0, len(characters), 1000)
    ]
    slow, fast = gpt2_tokenizers["slow"], gpt2_tokenizers["fast"]
    for text, ids in zip(texts, fast(texts)["input_ids"], strict=True):
        assert slow.encode(text) == ids
        assert slow.decode(ids) == text


def test_letters_newer_than_unicode_16_are_other_characters(gpt2):
    """After a letter 's is a contraction, and one token; after another character it is not."""
    new_letter = "\U0001e6c0"  # Tai Yo, Unicode 17
    assert gpt2.tokenize(f"{new_letter}'s")[-2:] == ["'", "s"]
    assert gpt2.tokenize("語's")[-1] == "'s"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "é\ud83d"])
def test_half_a_surrogate_pair_is_refused(gpt2, text):
    with pytest.raises(InvalidInputError, match="half a surrogate pair"):
        gpt2(text)
    with pytest.raises(InvalidInputError, match="half a surrogate pair"):
        gpt2([["fine", text]], is_split_into_words=True)


def test_the_repair_that_the_error_names(gpt2):
    halves = "\ud83d\ude00 \ud83d"
    whole = halves.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert whole == "😀 \ufffd"
    assert gpt2.decode(gpt2(whole)["input_ids"]) == whole


@pytest.fixture(scope="module")
def tiktoken_encoding(gpt2_tokenizers):
    tiktoken = pytest.importorskip("tiktoken")
    vocab = gpt2_tokenizers["slow"].encoder
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks={
            token_to_bytes(token): token_id
            for token, token_id in vocab.items()
            if token != "<|endoftext|>"
        },
        special_tokens={"<|endoftext|>": 50256},
    )


@settings(max_examples=500)
@given(text=st.text(st.one_of(st.sampled_from(" '\n aesrtdlvm1é語"), CHARACTERS)))
def test_a_second_opinion(gpt2_tokenizers, tiktoken_encoding, text):
    """OpenAI's tiktoken, on characters that every Unicode version since 16 classes alike."""
    expected = tiktoken_encoding.encode(text, allowed_special="all")
    assert gpt2_tokenizers["slow"].encode(text) == expected


def test_long_words(gpt2_tokenizers):
    """Quadratic merging would take minutes."""
    for text in ("a" * 20_000, "ab" * 10_000, "語" * 5_000, " " * 20_000):
        slow, fast = (t.encode(text) for t in gpt2_tokenizers.values())
        assert slow == fast


def test_copies_and_pickles_give_the_same_ids(tiny):
    tiny.add_bos_token = True
    text = "The cat<sep> sat extra"
    expected = tiny(text)["input_ids"]
    for twin in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert twin(text)["input_ids"] == expected
        assert twin.decode(expected) == tiny.decode(expected)
        twin.add_tokens("new")
        assert "new" not in tiny.get_vocab()


# A vocabulary without all bytes -------------------------------------------------------------------

INCOMPLETE = {"l": 0, "o": 1, "w": 2, "Ġ": 3, "lo": 4, "low": 5, "<unk>": 6, "Ġlow": 7}
MERGES = ["l o", "lo w", "Ġ low"]


def test_unknown_characters_become_the_unknown_token(tokenizer_class):
    tokenizer = tokenizer_class(
        INCOMPLETE, MERGES, unk_token="<unk>", bos_token=None, eos_token=None
    )
    assert tokenizer("low slow")["input_ids"] == [5, 3, 6, 5]
    assert tokenizer.convert_tokens_to_ids(["low", "high"]) == [5, 6]
    assert tokenizer.convert_ids_to_tokens([5, 99]) == ["low", None]


def test_unknown_characters_become_an_unknown_token_that_was_added(tokenizer_class):
    tokenizer = tokenizer_class(INCOMPLETE, MERGES)  # <|endoftext|> is new
    assert len(tokenizer) == 9
    assert tokenizer("low slow")["input_ids"] == [5, 3, 8, 5]


def test_unknown_characters_without_an_unknown_token_are_refused(tokenizer_class):
    tokenizer = tokenizer_class(INCOMPLETE, MERGES, unk_token=None, bos_token=None, eos_token=None)
    assert tokenizer("low low")["input_ids"] == [5, 7]
    with pytest.raises(InvalidInputError, match="no token for 's'"):
        tokenizer("low slow")


# Merges in an order that training never gives: "abc" is worth most, but only exists after "ab".
ODD_ORDER = ["ab c", "c d", "a b"]
ODD_VOCAB = {t: i for i, t in enumerate(["a", "b", "c", "d", "ab", "cd", "abc", "<|endoftext|>"])}


@given(text=st.text("abcd", max_size=30))
def test_merges_in_odd_order(text):
    slow, fast = (cls(ODD_VOCAB, ODD_ORDER)(text) for cls in (GPT2Tokenizer, GPT2TokenizerFast))
    assert slow["input_ids"] == fast["input_ids"]
