"""The pinned Unicode table, and the two engines that must split text by it."""

import hashlib
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from gpt2x.tokenization.pretokenization import explicit_pattern, split_words
from gpt2x.tokenization.unicode import (
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    character_classes,
    word_characters,
)

SURROGATES = range(0xD800, 0xE000)


def test_the_table_never_changes():
    """Ids depend on it: another table would be another tokenizer."""
    digest = hashlib.sha256(character_classes().tobytes()).hexdigest()
    assert digest == "ba830e7f669dd0fcc40141409e2c8be621eead74b1d0d659dc89185f117d69c8"


def test_counts_are_those_of_unicode_16():
    classes = character_classes()
    assert classes.shape == (0x110000,)
    assert classes.dtype == np.int8
    assert np.bincount(classes).tolist() == [0x110000 - 141028 - 1911 - 25, 141028, 1911, 25]


def test_the_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        character_classes()[0] = LETTER


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("a", LETTER),
        ("é", LETTER),
        ("語", LETTER),
        ("\U0001e6c0", OTHER),  # Tai Yo, a letter since Unicode 17
        ("7", NUMBER),
        ("½", NUMBER),
        ("Ⅷ", NUMBER),
        ("\u0301", OTHER),  # combining acute accent
        ("_", OTHER),
        ("😀", OTHER),
        ("\0", OTHER),
        ("\x1c", OTHER),  # white space for str.isspace, not for Unicode
        ("\x85", SPACE),
        ("\u00a0", SPACE),
        ("\u3000", SPACE),
        ("\u200b", OTHER),  # zero width space is not white space
        ("\ufeff", OTHER),
        ("\ue000", OTHER),
        ("\ud800", OTHER),
    ],
)
def test_class_of(character, expected):
    assert character_classes()[ord(character)] == expected


@pytest.mark.skipif(
    tuple(map(int, unicodedata.unidata_version.split("."))) > (16, 0, 0),
    reason="this Python knows a newer Unicode",
)
def test_agrees_with_pythons_unicode_on_what_that_has_assigned():
    """Unicode rarely moves an assigned code point to another class."""
    expected = {"L": LETTER, "N": NUMBER, "Z": SPACE}
    for code_point, character_class in enumerate(character_classes().tolist()):
        category = unicodedata.category(chr(code_point))
        if category not in ("Cn", "Cc"):  # not assigned yet; controls, of which six are spaces
            assert character_class == expected.get(category[0], OTHER), hex(code_point)


@pytest.fixture(scope="module")
def oniguruma_split():
    """Split a string with the explicit pattern in the engine of the `tokenizers` library."""
    split = pre_tokenizers.Split(Regex(explicit_pattern()), "isolated")
    return lambda text: [word for word, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("character_class", [OTHER, LETTER, NUMBER])
def test_in_both_engines_a_class_is_one_word(character_class, oniguruma_split):
    """All code points of the class in a row: one that an engine put elsewhere would split it."""
    code_points = np.flatnonzero(character_classes() == character_class).tolist()
    text = "".join(chr(c) for c in code_points if c not in SURROGATES)
    assert oniguruma_split(text) == [text]
    assert split_words(text) == [text]


def test_in_both_engines_white_space_is_one_word(oniguruma_split):
    spaces = "".join(map(chr, np.flatnonzero(character_classes() == SPACE)))
    text = spaces + "a" + spaces
    expected = [spaces[:-1], spaces[-1], "a", spaces]
    assert oniguruma_split(text) == expected
    assert split_words(text) == expected


@given(st.text())
@example("")
@example("'s's'S 's")
@example("a\u00a0b \u3000 c")
@example("a\U0001e6c0b")
def test_words_join_to_the_text(text):
    words = split_words(text)
    assert "".join(words) == text
    assert all(words)


CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(" '\n\t\u00a0\u3000strdvlmeé1½!\u0301"),
)


@given(st.text(CHARACTERS))
@settings(max_examples=300)
def test_both_engines_split_any_text_alike(oniguruma_split, text):
    assert split_words(text) == oniguruma_split(text)


def test_a_lone_surrogate_is_split_like_a_symbol():
    assert split_words("a\ud800b é") == ["a", "\ud800", "b", " é"]


def test_characters_of_words():
    r"""What \w matches in the `tokenizers` library's engine for added tokens, Rust's regex."""
    in_words = word_characters()
    assert in_words.sum() == 144_667
    for character in "aé語1٣_‿\u0301\u093f\u200dⅧⓐ":
        assert in_words[ord(character)], character
    for character in " -²½😀\u200b\u00a0'":
        assert not in_words[ord(character)], character
