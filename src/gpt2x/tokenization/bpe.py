"""Byte-level byte-pair encoding of one word at a time, in pure Python.

Each byte of a word is written as a printable character. The adjacent pair of lowest rank is merged,
the leftmost first among equals, until no adjacent pair is in the table.

Sources: Sennrich et al. 2016
(arXiv:1508.07909); byte-level in Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners"; the order among equals is that of the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise

from gpt2x.errors import InvalidInputError

Merge = tuple[str, str]

# Words repeat (Zipf's law), so nearly all are found in the cache. These bounds keep the cache of a
# server below about 100 MB.
_CACHED_WORDS = 250_000
_CACHED_LENGTH = 64


@cache
def byte_to_unicode() -> dict[int, str]:
    """Return the printable character for each byte, as in vocabulary and merges files.

    Printable Latin-1 characters represent their own byte; other bytes, in order, are U+0100 and up.
    (encoder.py of the GPT-2 release.)
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    return {byte: shifted.get(byte, chr(byte)) for byte in range(256)}


@cache
def unicode_to_byte() -> dict[str, int]:
    """Return the inverse of `byte_to_unicode`."""
    return {character: byte for byte, character in byte_to_unicode().items()}


def token_to_bytes(token: str) -> bytes:
    """Return the bytes of a token of the vocabulary.

    A token with a character that represents no byte was not made by merges; its bytes are UTF-8.
    """
    table = unicode_to_byte()
    try:
        return bytes([table[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def is_byte_complete(vocab: Mapping[str, int]) -> bool:
    """Return whether every byte has a token, so that every text can be encoded."""
    return all(character in vocab for character in unicode_to_byte())


class BytePairEncoder(dict[str, tuple[int, ...]]):
    """Encodes words: ``encoder[word]`` is the tuple of its ids, and is remembered.

    A dictionary that fills itself, so that known words are encoded without running Python code for
    each.

    Args:
        vocab: id of each token.
        ranks: rank of each pair of tokens; the lowest is merged first.
    """

    def __init__(self, vocab: Mapping[str, int], ranks: Mapping[Merge, int]) -> None:
        super().__init__()
        self.vocab = vocab
        self.ranks = ranks
        self._unknown_id: int | None = None
        table = byte_to_unicode()
        # str.translate maps all bytes of a word, decoded as Latin-1, in one call.
        self._byte_characters = {byte: table[byte] for byte in range(256)}

    @property
    def unknown_id(self) -> int | None:
        """The id for symbols without a token; None to raise."""
        return self._unknown_id

    @unknown_id.setter
    def unknown_id(self, value: int | None) -> None:
        if value != self._unknown_id:
            self.clear()
            self._unknown_id = value

    def __missing__(self, word: str) -> tuple[int, ...]:
        symbols = self.symbols(word)
        try:
            ids = tuple(map(self.vocab.__getitem__, symbols))
        except KeyError:
            ids = tuple(map(self._known_id, symbols))
        if len(word) <= _CACHED_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids

    def symbols(self, word: str) -> list[str]:
        """Return the tokens of a word, as text."""
        as_characters = word.encode("utf-8").decode("latin-1").translate(self._byte_characters)
        return merge_pairs(as_characters, self.ranks)

    def _known_id(self, symbol: str) -> int:
        token_id = self.vocab.get(symbol, self._unknown_id)
        if token_id is None:
            raise InvalidInputError(unknown_symbol(symbol))
        return token_id


def unknown_symbol(symbol: str) -> str:
    """Return the error for a symbol that cannot be encoded."""
    return (
        f"The vocabulary has no token for {symbol!r}, and its unknown token is not in it either. "
        "Set `unk_token` to a token of the vocabulary, or give a vocabulary with all 256 bytes."
    )


def merge_pairs(characters: Sequence[str], ranks: Mapping[Merge, int]) -> list[str]:
    """Merge neighbours until no pair in `ranks` is left. O(n log n) in the length.

    >>> merge_pairs("lower", {("l", "o"): 0, ("e", "r"): 1, ("lo", "w"): 2})
    ['low', 'er']
    """
    symbols = list(characters)
    end = len(symbols)
    # A linked list over positions; a merged pair keeps the position of its first part.
    following = list(range(1, end + 1))
    preceding = list(range(-1, end - 1))
    queue = [
        (rank, position)
        for position, pair in enumerate(pairwise(characters))
        if (rank := ranks.get(pair)) is not None
    ]
    heapify(queue)
    while queue:
        rank, left = heappop(queue)
        right = following[left]
        # The pair that was queued here may be merged already, or may have changed.
        if right == end or ranks.get((symbols[left], symbols[right])) != rank:
            continue
        symbols[left] += symbols[right]
        symbols[right] = ""  # in no pair of `ranks`
        after = following[left] = following[right]
        before = preceding[left]
        if after != end:
            preceding[after] = left
            rank_after = ranks.get((symbols[left], symbols[after]))
            if rank_after is not None:
                heappush(queue, (rank_after, left))
        if before >= 0:
            rank_before = ranks.get((symbols[before], symbols[left]))
            if rank_before is not None:
                heappush(queue, (rank_before, before))
    return [symbol for symbol in symbols if symbol]
