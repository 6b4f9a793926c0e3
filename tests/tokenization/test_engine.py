"""The two engines, without a tokenizer around them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from tokenizers import AddedToken

from gpt2x import EMBEDDED_MODEL, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.bpe import byte_to_unicode
from gpt2x.tokenization.engine import RegexEngine
from gpt2x.tokenization.library_engine import LibraryEngine
from gpt2x.tokenization.token_table import TokenTable
from gpt2x.tokenization.vocabulary import Vocabulary


def table_of(tokens):
    pairs = [("a", "b"), ("Ġ", "ab")]
    merged = {"ab": len(tokens), "Ġab": len(tokens) + 1}
    return TokenTable(Vocabulary({**tokens, **merged}, pairs))


@pytest.fixture
def table():
    """All bytes, "ab" (256), " ab" (257), <s> (special, 258) and "word" (259)."""
    table = table_of({character: byte for byte, character in byte_to_unicode().items()})
    table.add(AddedToken("<s>", special=True, normalized=False))
    table.add(AddedToken("word"))
    return table


@pytest.fixture(params=[RegexEngine, LibraryEngine])
def engine(request, table):
    return request.param(table)


def ids_of(engine, *texts, **options):
    return [sequence.ids for sequence in engine.encode([[text] for text in texts], **options)]


def test_encode_and_decode(engine):
    assert ids_of(engine, "ab ab", "é", "") == [[256, 257], [0xC3, 0xA9], []]
    assert engine.decode([256, 257, 0xC3, 0xA9], "strict") == "ab abé"
    assert engine.decode([0xC3, 999], "replace") == "\ufffd"
    assert engine.decode_tokens(["ab", "<s>", "Ġab"], "strict") == "ab<s> ab"


@pytest.mark.parametrize("kind", [GPT2Tokenizer, GPT2TokenizerFast])
def test_threads_share_a_tokenizer_from_its_first_text_on(kind):
    expected = kind.from_pretrained(EMBEDDED_MODEL)("And the king said")["input_ids"]
    for _ in range(5):
        tokenizer, barrier = kind.from_pretrained(EMBEDDED_MODEL), Barrier(8)

        def encode(_, tokenizer=tokenizer, barrier=barrier):
            barrier.wait()
            return tokenizer("And the king said")["input_ids"]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(encode, range(8))) == [expected] * 8


def test_added_tokens_are_found_whole(engine):
    assert ids_of(engine, "ab<s>word") == [[256, 258, 259]]
    assert ids_of(engine, "<s>word", ignore_special=True) == [[*b"<s>", 259]]
    engine.table.add(AddedToken("later"))
    assert ids_of(engine, "laterab") == [[260, 256]]
    assert engine.decode([256, 258, 256, 257], "strict", separator="|") == "ab|<s>|ab ab"


def test_prefix_space(engine):
    assert ids_of(engine, "ab", " ab", prefix_space=True) == [[257], [257]]
    (sequence,) = engine.encode([["ab", "ab"]], are_words=True, prefix_space=True)
    assert sequence.ids == [257, 257]


@pytest.mark.parametrize("engine_class", [RegexEngine, LibraryEngine])
def test_what_the_vocabulary_lacks(engine_class):
    table = table_of({"a": 0, "b": 1, "Ġ": 2})
    engine = engine_class(table)
    with pytest.raises(InvalidInputError, match="no token for 'c'"):
        ids_of(engine, "abc")
    table.special.set("unk_token", "b")
    assert ids_of(engine, "abc") == [[3, 1]]


def test_the_librarys_sequences_know_where_tokens_come_from(table):
    engine = LibraryEngine(table)
    (text,) = engine.encode([["ab<s> ab"]])
    assert text.tokens == ["ab", "<s>", "Ġab"]
    assert text.offsets == [(0, 2), (2, 5), (5, 8)]
    assert text.word_ids == [0, 1, 2]
    (words,) = engine.encode([["ab", "ab<s>"]], are_words=True)
    assert words.word_ids == [0, 1, 1]
    (text,) = RegexEngine(table).encode([["ab"]])
    with pytest.raises(NotImplementedError, match="GPT2TokenizerFast"):
        _ = text.offsets
