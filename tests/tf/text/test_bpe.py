"""Merging many words at once gives what merging them one by one does."""

from __future__ import annotations

import random

import pytest
import tensorflow as tf

from gpt2x.tf.text.bpe import BytePairMerges
from gpt2x.tokenization.bpe import merge_pairs

Pair = tuple[bytes, bytes]


def merges_of(pairs: list[Pair]) -> tuple[BytePairMerges, dict[bytes, int]]:
    vocab: dict[bytes, int] = {}
    for symbol in [b"a", b"b", b"c", b"d", *(left + right for left, right in pairs)]:
        vocab.setdefault(symbol, 100 + len(vocab))
    return BytePairMerges({pair: rank for rank, pair in enumerate(pairs)}, vocab, None), vocab


def expected(word: str, pairs: list[Pair], vocab: dict[bytes, int]) -> list[int]:
    ranks = {(left.decode(), right.decode()): rank for rank, (left, right) in enumerate(pairs)}
    return [vocab[symbol.encode()] for symbol in merge_pairs(word, ranks)]


@pytest.mark.parametrize("shuffled", [False, True], ids=["as trained", "in any order"])
@pytest.mark.parametrize("n_merges", [0, 1, 4, 12, 40])
def test_random_tables(n_merges, shuffled):
    draw = random.Random(n_merges)
    for _ in range(3):
        pairs: list[Pair] = []
        symbols = [b"a", b"b", b"c"]
        for _ in range(n_merges):
            pair = (draw.choice(symbols), draw.choice(symbols))
            if pair not in pairs:
                pairs.append(pair)
                symbols.append(pair[0] + pair[1])
        if shuffled:
            draw.shuffle(pairs)
        merges, vocab = merges_of(pairs)
        words = ["".join(draw.choices("abc", k=draw.randint(0, 30))) for _ in range(200)]
        ids = merges(tf.constant(words))
        assert ids.to_list() == [expected(word, pairs, vocab) for word in words]


@pytest.mark.parametrize(
    ("pairs", "word", "symbols"),
    [
        # A pair that ranks below its neighbours, but is broken up before its turn.
        ([(b"c", b"d"), (b"b", b"cd"), (b"a", b"b")], "abcd", [b"a", b"bcd"]),
        # Overlapping occurrences: the leftmost wins.
        ([(b"a", b"a")], "aaaaa", [b"aa", b"aa", b"a"]),
        ([(b"a", b"a"), (b"aa", b"aa")], "aaaaaaa", [b"aaaa", b"aa", b"a"]),
        # The result of a merge takes part in one of a lower rank, which then comes before the
        # other occurrences.
        ([(b"ab", b"a"), (b"a", b"b")], "abab", [b"aba", b"b"]),
    ],
)
def test_order_of_merges(pairs, word, symbols):
    merges, vocab = merges_of(pairs)
    assert merges(tf.constant([word])).to_list() == [[vocab[symbol] for symbol in symbols]]


def test_no_words():
    merges, _ = merges_of([(b"a", b"b")])
    assert merges(tf.constant([], tf.string)).to_list() == []
    assert merges(tf.constant(["", "ab", ""])).to_list() == [[], [104], []]


def test_bytes_without_id():
    pairs = {(b"a", b"b"): 0}
    vocab = {b"a": 0, b"b": 1, b"ab": 2}
    with_unknown = BytePairMerges(pairs, vocab, unknown_id=7)
    assert with_unknown(tf.constant(["abz"])).to_list() == [[2, 7]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="no token for a part of the text"):
        BytePairMerges(pairs, vocab, unknown_id=None)(tf.constant(["abz"]))


def test_a_long_word_takes_few_passes():
    """Merging the lowest pair only would take as many passes as there are merges in use."""
    draw = random.Random(0)
    pairs = [(left, right) for left in (b"a", b"b", b"c", b"d") for right in (b"a", b"b", b"c")]
    draw.shuffle(pairs)
    pairs += [(left + right, b"d") for left, right in pairs]
    merges, vocab = merges_of(pairs)
    word = "".join(draw.choices("abcd", k=20_000))
    passes = 0
    one_pass = merges._pass

    def counted(*state):
        nonlocal passes
        passes += 1
        return one_pass(*state)

    merges._pass = counted
    assert merges(tf.constant([word])).to_list() == [expected(word, pairs, vocab)]
    assert passes <= 20
