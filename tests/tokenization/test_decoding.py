"""From ids back to text."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.bpe import byte_to_unicode, merge_pairs, token_to_bytes, unicode_to_byte

HALF_A_SNOWMAN = [158, 246]  # the first two of the three bytes of U+2603


@pytest.mark.parametrize(
    "ids", [15496, np.int64(15496), np.array(15496), [15496], (15496,), np.array([15496])]
)
def test_forms_of_ids(gpt2, ids):
    assert gpt2.decode(ids) == "Hello"


def test_batch_decode(gpt2):
    rows = np.array([[15496, 995], [50256, 50256]])
    assert gpt2.batch_decode(rows) == ["Hello world", "<|endoftext|><|endoftext|>"]
    assert gpt2.batch_decode(rows, skip_special_tokens=True) == ["Hello world", ""]


@pytest.mark.parametrize("ids", [[[15496]], [1.5], [-100], ["a"], None])
def test_what_is_no_id_is_refused(gpt2, ids):
    with pytest.raises(InvalidInputError, match="it is not a token id"):
        gpt2.decode(ids)


def test_several_rows_are_for_batch_decode(gpt2):
    with pytest.raises(InvalidInputError, match="Use batch_decode"):
        gpt2.decode(np.array([[1, 2], [3, 4]]))


def test_ids_without_a_token_have_no_text(gpt2):
    assert gpt2.decode([15496, 50300]) == "Hello"


def test_errors(tiny, tokenizer_class, tiny_folder):
    half = tiny("☃")["input_ids"][:2]
    assert tiny.decode(half) == "\ufffd"
    assert tokenizer_class.from_pretrained(tiny_folder, errors="ignore").decode(half) == ""
    strict = tokenizer_class.from_pretrained(tiny_folder, errors="strict")
    with pytest.raises(UnicodeDecodeError):
        strict.decode(half)


def test_clean_up(tiny, tokenizer_class, tiny_folder):
    text = "do n't , he 's here . ' x ' ?"
    ids = tiny(text)["input_ids"]
    assert tiny.decode(ids) == text
    cleaned = "don't, he's here.'x '?"
    assert tiny.decode(ids, clean_up_tokenization_spaces=True) == cleaned
    eager = tokenizer_class.from_pretrained(tiny_folder, clean_up_tokenization_spaces=True)
    assert eager.decode(ids) == cleaned
    assert eager.decode(ids, clean_up_tokenization_spaces=False) == text


def test_spaces_between_special_tokens(tiny):
    ids = tiny("a<sep><sep>b")["input_ids"]
    assert tiny.decode(ids) == "a<sep><sep>b"
    assert tiny.decode(ids, spaces_between_special_tokens=True) == "a <sep> <sep> b"


def test_convert_tokens_to_string(tiny):
    assert tiny.convert_tokens_to_string(tiny.tokenize("naïve<sep>語 x")) == "naïve<sep>語 x"


def test_added_tokens_decode_to_themselves(tiny):
    """Even if their characters stand for bytes elsewhere in the vocabulary."""
    tiny.add_tokens(["Ġé", "Ċ"])
    text = "xĠé Ċ"
    assert tiny.decode(tiny(text)["input_ids"]) == text


# Bytes and merges ---------------------------------------------------------------------------------


def test_bytes_as_characters():
    table = byte_to_unicode()
    assert len(set(table.values())) == 256
    assert [table[byte] for byte in (0, 10, 32, 33, 127, 173, 255)] == list("ĀĊĠ!ġŃÿ")
    assert {character: byte for byte, character in table.items()} == unicode_to_byte()
    assert token_to_bytes("Ġa") == b" a"
    assert token_to_bytes("☃") == "☃".encode()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", []),
        ("a", ["a"]),
        ("xyz", ["x", "y", "z"]),
        ("aaa", ["aa", "a"]),
        ("aaaa", ["aaaa"]),
        ("aaaaa", ["aaaa", "a"]),
        ("abcd", ["a", "bcd"]),
    ],
)
def test_merge_pairs(word, expected):
    """The lowest rank first, from the left: bcd before ab, though ab is possible all the time."""
    ranks = {("a", "a"): 0, ("aa", "aa"): 1, ("c", "d"): 2, ("b", "cd"): 3, ("a", "b"): 4}
    assert merge_pairs(word, ranks) == expected
