"""One row of a batch: the tokens of a sequence or pair, with special tokens and padding.

Both engines return `EncodedSequence`s; the assembler makes these rows of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from gpt2x.errors import InvalidInputError

T = TypeVar("T")

Span = tuple[int, int]


class EncodedSequence:
    """The tokens of one text, or of one list of words, without special tokens.

    Attributes:
        ids: ids of the tokens.
    """

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    @property
    def tokens(self) -> list[str]:
        """The tokens' texts, spelt as in the vocabulary."""
        raise _needs_fast("tokens")

    @property
    def offsets(self) -> list[Span]:
        """The range of characters of each token in its text (or word): first, and last + 1."""
        raise _needs_fast("offsets")

    @property
    def word_ids(self) -> list[int]:
        """The number of the word of each token."""
        raise _needs_fast("word ids")


def _needs_fast(what: str) -> NotImplementedError:
    return NotImplementedError(f"The {what} are only known for texts of GPT2TokenizerFast.")


class Piece(NamedTuple):
    """Neighbouring tokens of a row with the same source.

    Attributes:
        ids: ids of the tokens.
        type_id: their token type.
        sequence_id: 0 or 1 for the first or second sequence, None for special tokens and padding.
        source: the sequence that they are a slice of, if any.
        start: where that slice begins.
        token: the token's text, if there is no source.
        attended: whether the attention mask is 1 there.
    """

    ids: list[int]
    type_id: int = 0
    sequence_id: int | None = None
    source: EncodedSequence | None = None
    start: int = 0
    token: str = ""
    attended: bool = True


@dataclass
class Encoding:
    """One row of a batch. The attributes are those of `tokenizers.Encoding`.

    Attributes:
        pieces: the parts of the row, in order.
        overflowing: further rows, of the tokens that truncation removed from this one.
    """

    pieces: list[Piece]
    overflowing: list[Encoding] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces)

    @property
    def ids(self) -> list[int]:
        """The ids of the tokens."""
        return _joined(piece.ids for piece in self.pieces)

    @property
    def type_ids(self) -> list[int]:
        """The token types: 0, and 1 for the second sequence of a pair."""
        return _joined([piece.type_id] * len(piece.ids) for piece in self.pieces)

    @property
    def attention_mask(self) -> list[int]:
        """1 at tokens, 0 at padding."""
        return _joined([int(piece.attended)] * len(piece.ids) for piece in self.pieces)

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 at padding and at special tokens that were added around the text, else 0."""
        return [int(sequence_id is None) for sequence_id in self.sequence_ids]

    @property
    def sequence_ids(self) -> list[int | None]:
        """0 or 1 for tokens of the first or second sequence, else None."""
        return _joined([piece.sequence_id] * len(piece.ids) for piece in self.pieces)

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens' texts, spelt as in the vocabulary."""
        return self._from_source("tokens", lambda piece: piece.token)

    @cached_property
    def offsets(self) -> list[Span]:
        """First and last + 1 character of each token in its text or word; (0, 0) for others."""
        return self._from_source("offsets", lambda piece: (0, 0))

    @cached_property
    def word_ids(self) -> list[int | None]:
        """The number of the word of each token within its sequence; None for others."""
        return self._from_source("word_ids", lambda piece: None)

    @property
    def words(self) -> list[int | None]:
        """An older name of `word_ids`."""
        return self.word_ids

    def _from_source(self, name: str, otherwise: Any) -> list[Any]:
        return _joined(
            [otherwise(piece)] * len(piece.ids)
            if piece.source is None
            else getattr(piece.source, name)[piece.start : piece.start + len(piece.ids)]
            for piece in self.pieces
        )

    @property
    def n_sequences(self) -> int:
        """1, or 2 for a pair."""
        return max((piece.sequence_id or 0) + 1 for piece in self.pieces) if self.pieces else 1

    # From tokens to words and characters, and back ------------------------------------------------

    def token_to_sequence(self, token_index: int) -> int | None:
        """The sequence of a token, 0 or 1."""
        return self.sequence_ids[self._checked(token_index)]

    def token_to_word(self, token_index: int) -> int | None:
        """The word of a token, numbered within its sequence."""
        return self.word_ids[self._checked(token_index)]

    def token_to_chars(self, token_index: int) -> Span | None:
        """The characters of a token; None for a special one that was added, or padding."""
        index = self._checked(token_index)
        return None if self.sequence_ids[index] is None else self.offsets[index]

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> Span | None:
        """First and last + 1 token of a word."""
        indices = self._tokens_of_word(word_index, sequence_index)
        return (indices[0], indices[-1] + 1) if indices else None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> Span | None:
        """First and last + 1 character of a word."""
        indices = self._tokens_of_word(word_index, sequence_index)
        return (self.offsets[indices[0]][0], self.offsets[indices[-1]][1]) if indices else None

    def char_to_token(self, char_index: int, sequence_index: int = 0) -> int | None:
        """The first token that covers a character."""
        for index, (first, end) in enumerate(self.offsets):
            if first <= char_index < end and self.sequence_ids[index] == sequence_index:
                return index
        return None

    def char_to_word(self, char_index: int, sequence_index: int = 0) -> int | None:
        """The word that covers a character."""
        index = self.char_to_token(char_index, sequence_index)
        return None if index is None else self.word_ids[index]

    def _tokens_of_word(self, word_index: int, sequence_index: int) -> list[int]:
        return [
            index
            for index, word in enumerate(zip(self.word_ids, self.sequence_ids, strict=True))
            if word == (word_index, sequence_index)
        ]

    def _checked(self, token_index: int) -> int:
        if not 0 <= token_index < len(self):
            raise InvalidInputError(
                f"Token index {token_index} is outside a row of {len(self)} tokens."
            )
        return token_index


def _joined(parts: Iterable[list[T]]) -> list[T]:
    """Join lists; a single list is returned as it is, since nearly all rows are one piece."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))


def windows(length: int, max_length: int, stride: int, side: str) -> list[Span]:
    """Cut `length` tokens into windows of at most `max_length` that share `stride` tokens.

    The first window has the tokens that truncation keeps; the others follow away from that side.

    Args:
        length: tokens to cut.
        max_length: longest window.
        stride: tokens that neighbouring windows share.
        side: where truncation removes tokens, "right" or "left".

    Returns:
        First and last + 1 token of each window; at least one.

    >>> windows(5, 3, 1, "right")
    [(0, 3), (2, 5)]
    >>> windows(5, 3, 1, "left")
    [(2, 5), (0, 3)]

    Raises:
        InvalidInputError: if the stride leaves no new token in a window.
    """
    if length <= max_length:
        return [(0, length)]
    if max_length <= 0:
        return [(0, 0), (0, length)]
    if stride >= max_length:
        raise InvalidInputError(
            f"stride is {stride}; it must be less than the {max_length} tokens that max_length "
            "leaves to the sequence beside special tokens and the other sequence."
        )
    spans = []
    for start in range(0, length, max_length - stride):
        stop = min(start + max_length, length)
        spans.append((start, stop))
        if stop == length:
            break
    return spans if side == "right" else [(length - stop, length - start) for start, stop in spans]
