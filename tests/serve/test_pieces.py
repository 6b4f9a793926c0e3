"""Text of tokens that come one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.serve.pieces import Pieces, TokenBytes

TOKENIZER = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
TOKENS = TokenBytes(TOKENIZER)
STOPS = st.lists(st.text("abn \n", min_size=1, max_size=4), max_size=3)


def pieces(tokens, *stop):
    """Return the pieces of a text up to its end or its stop, and whether it was stopped."""
    text = Pieces(TOKENS, stop)
    found = []
    for token in tokens:
        found.append(text.add(token))
        if text.is_stopped:
            break
    found.append(text.end())
    assert text.length == len("".join(found))
    return found, text.is_stopped


@given(st.lists(st.integers(0, 4095), max_size=30))
def test_pieces_add_up_to_the_decoded_text(tokens):
    found, _ = pieces(tokens)
    assert "".join(found) == TOKENIZER.decode(tokens, skip_special_tokens=True)


@given(st.text(max_size=20))
def test_pieces_of_a_text_hold_whole_characters(text):
    found, _ = pieces(TOKENIZER.encode(text))
    assert "".join(found) == text.replace("<|endoftext|>", "")
    assert not any("�" in piece for piece in found) or "�" in text


@given(st.text("abn \n", max_size=40), STOPS)
def test_a_text_ends_before_the_first_stop_string(text, stop):
    places = [place for each in stop if (place := text.find(each)) >= 0]
    found, is_stopped = pieces(TOKENIZER.encode(text), *stop)
    assert is_stopped == bool(places)
    # A token may bring several stop strings at once: the text ends before all of them.
    assert "".join(found) == (text[: min(places)] if places else text)


def test_what_may_begin_a_stop_string_is_held_back():
    text = Pieces(TOKENS, ["the end"])
    tokens = TOKENIZER.encode("so the e")
    assert "".join(map(text.add, tokens)) == "so "
    assert "".join(map(text.add, TOKENIZER.encode("arl"))) == "the earl"


@pytest.mark.parametrize(("token", "shown"), [(4095, "<|endoftext|>"), (9999, "")])
def test_special_and_unknown_tokens_add_no_text(token, shown):
    assert TOKENS.of(token) == b""
    assert TOKENS.shown(token) == shown


def test_a_token_that_is_not_whole_characters_is_named_by_its_bytes():
    first, *_ = TOKENIZER.encode("🎭")
    assert TOKENS.named(first) == r"bytes:\xf0"
    assert TOKENS.shown(first) == "�"
    assert TOKENS.named(TOKENIZER.eos_token_id) == "<|endoftext|>"
    # So that alternatives do not fall together.
    names = {TOKENS.named(token) for token in range(len(TOKENIZER))}
    assert len(names) == len(TOKENIZER)


@given(st.lists(st.integers(0, 4095), max_size=20), STOPS)
def test_what_is_held_back_counts_as_read(tokens, stop):
    text = Pieces(TOKENS, stop)
    for token in tokens:
        before = text.read
        text.add(token)
        if text.is_stopped:
            break
        assert text.read >= before
        assert text.read >= text.length
    text.end()
    assert text.read == text.length
