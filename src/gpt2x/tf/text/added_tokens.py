"""Added tokens in text, found by table look-ups instead of a search automaton.

The rules are those of `gpt2x.tokenization.added_tokens`: the leftmost match wins, then the longest
that begins there, without overlaps; then `single_word`, `lstrip` and `rstrip` apply. Tokens with
`normalized=False` (special tokens, by default) are found before all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf
from tokenizers import AddedToken

from gpt2x.tf.text.lookup import static_table
from gpt2x.tf.text.pretokenization import shift_left, shift_right
from gpt2x.tokenization.unicode import SPACE, word_characters

NO_TOKEN = -1

# Where tokens begin and end (int64 [K], ascending), and which rows of the table they are (int32).
_Matches = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class Pieces(NamedTuple):
    """Text cut into pieces: each is an added token, or is split into words separately.

    Attributes:
        begins: bool [C], true for the first character of each piece.
        token_id: int32 [C], the id of the added token that begins there, or NO_TOKEN.
    """

    begins: tf.Tensor
    token_id: tf.Tensor

    def without_words_in_tokens(self, starts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Drop the words that begin within an added token, since the token is one word.

        Args:
            starts: int64 [W], where words begin.

        Returns:
            The remaining places, and the id of the added token (or NO_TOKEN) at each.
        """
        piece = _latest(self.begins, starts)
        token_id = tf.gather(self.token_id, piece)
        kept = (token_id < 0) | tf.equal(starts, piece)
        return tf.boolean_mask(starts, kept), tf.boolean_mask(token_id, kept)


class AddedTokenFinder(tf.Module):
    """Cuts text at its added tokens.

    Args:
        tokens: the added tokens by id.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        super().__init__(name="added_token_finder")
        in_turn = (
            {token_id: tokens[token_id] for token_id in tokens if tokens[token_id].normalized is on}
            for on in (False, True)
        )
        self._passes = [_Pass(group) for group in in_turn if group]

    def __call__(
        self, code_points: tf.Tensor, classes: tf.Tensor, begins_text: tf.Tensor
    ) -> Pieces:
        """Find the added tokens of concatenated texts.

        Args:
            code_points: int32 [C].
            classes: int8 [C], the class of each character.
            begins_text: bool [C], true for the first character of each text.
        """
        pieces = Pieces(begins_text, tf.fill(tf.shape(code_points), NO_TOKEN))
        for find in self._passes:
            pieces = find(code_points, classes, pieces)
        return pieces


class _Pass(tf.Module):
    """One search for a set of tokens, in the pieces that are text."""

    def __init__(self, tokens_by_id: Mapping[int, AddedToken]) -> None:
        super().__init__()
        tokens = list(tokens_by_id.values())
        self._has_strips = any(token.lstrip or token.rstrip for token in tokens)
        self._has_single_words = any(token.single_word for token in tokens)
        # Longest first.
        self._lengths = sorted({len(token.content) for token in tokens}, reverse=True)
        first = sorted({ord(token.content[0]) for token in tokens})
        self._row = static_table(
            [token.content for token in tokens],
            range(len(tokens)),
            key_dtype=tf.string,
            value_dtype=tf.int32,
            default=NO_TOKEN,
        )
        with tf.init_scope():
            # Whether a token begins with a character, up to the highest that one begins with, and
            # False for all beyond.
            self._is_first = tf.scatter_nd(
                tf.constant(first)[:, None], tf.ones(len(first), tf.bool), [first[-1] + 2]
            )
            self._ids = tf.constant(list(tokens_by_id), tf.int32)
            self._single_word = tf.constant([token.single_word for token in tokens])
            if self._has_single_words:
                self._word_characters = tf.constant(word_characters())
            self._lstrip = tf.constant([token.lstrip for token in tokens])
            self._rstrip = tf.constant([token.rstrip for token in tokens])

    def __call__(self, code_points: tf.Tensor, classes: tf.Tensor, pieces: Pieces) -> Pieces:
        # K tokens, in the order of the text.
        begin, end, row = self._matches(code_points, pieces)  # [K] each
        if self._has_single_words:
            is_word = tf.gather(self._word_characters, code_points)
            begin, end, row = self._whole_words(is_word, pieces, begin, end, row)
        if self._has_strips:
            begin, end, row = self._strip(classes == SPACE, pieces, begin, end, row)
        # One more place, for a token at the end of the text.
        begins = tf.concat([pieces.begins, [True]], axis=0)
        cuts = tf.concat([begin, end], axis=0)
        begins = tf.tensor_scatter_nd_update(begins, cuts[:, None], tf.ones_like(cuts, tf.bool))
        token_id = tf.tensor_scatter_nd_update(
            pieces.token_id, begin[:, None], tf.gather(self._ids, row)
        )
        return Pieces(begins[:-1], token_id)

    def _matches(self, code_points: tf.Tensor, pieces: Pieces) -> _Matches:
        """Return where tokens begin and end, and their rows, in order, without overlaps."""
        beyond = tf.size(self._is_first) - 1
        at = tf.where(tf.gather(self._is_first, tf.minimum(code_points, beyond)))[:, 0]
        piece_begin = _latest(pieces.begins, at)
        at = tf.boolean_mask(at, tf.gather(pieces.token_id, piece_begin) < 0)
        piece_end = _next(shift_left(pieces.begins, fill=True), at) + 1

        row, end = tf.fill(tf.shape(at), NO_TOKEN), at
        for length in self._lengths:
            open_places = tf.where((row < 0) & (at + length <= piece_end))
            window = tf.gather_nd(at, open_places)[:, None] + tf.range(length, dtype=tf.int64)
            candidate = tf.strings.unicode_encode(tf.gather(code_points, window), "UTF-8")
            found = self._row.lookup(candidate)
            row = tf.tensor_scatter_nd_update(row, open_places, found)
            end = tf.where((row >= 0) & tf.equal(end, at), at + length, end)
        matches = _select((at, end, row), row >= 0)
        return _select(matches, _without_overlaps(*matches[:2]))

    def _whole_words(
        self, is_word: tf.Tensor, pieces: Pieces, begin: tf.Tensor, end: tf.Tensor, row: tf.Tensor
    ) -> _Matches:
        """Drop tokens with `single_word` that are next to a character of a word."""
        is_word = tf.concat([is_word, [False]], axis=0)
        begins = tf.concat([pieces.begins, [True]], axis=0)
        word_before = tf.gather(shift_right(is_word) & ~begins, begin)
        word_after = tf.gather(is_word & ~begins, end)
        single_word = tf.gather(self._single_word, row)
        return _select((begin, end, row), ~(single_word & (word_before | word_after)))

    def _strip(
        self, is_white: tf.Tensor, pieces: Pieces, begin: tf.Tensor, end: tf.Tensor, row: tf.Tensor
    ) -> _Matches:
        """Extend tokens with `lstrip` and `rstrip` over the white space next to them."""
        is_white = tf.concat([is_white, [False]], axis=0)
        begins = tf.concat([pieces.begins, [True]], axis=0)
        after_white = _next(begins | ~is_white, end)
        end = tf.where(tf.gather(self._rstrip, row), after_white, end)
        # A token that begins with white space can have lost it to the one before.
        begin, end, row = _select((begin, end, row), _without_overlaps(begin, end))
        before_white = _latest(begins | ~shift_right(is_white), begin)
        before_white = tf.maximum(before_white, shift_right(end))
        return tf.where(tf.gather(self._lstrip, row), before_white, begin), end, row


def _select(matches: _Matches, kept: tf.Tensor) -> _Matches:
    begin, end, row = (tf.boolean_mask(values, kept) for values in matches)
    return begin, end, row


def _latest(flags: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the last true place up to each of some places: bool [N], int64 [K] -> int64 [K].

    It is 0 if no place is true.
    """
    places = tf.concat([tf.zeros([1], tf.int64), tf.where(flags)[:, 0]], axis=0)
    return tf.gather(places, tf.gather(tf.cumsum(tf.cast(flags, tf.int32)), at))


def _next(flags: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the first true place from each of some places on: bool [N], int64 [K] -> int64 [K].

    It is N if no place is true.
    """
    places = tf.concat([tf.where(flags)[:, 0], [tf.size(flags, tf.int64)]], axis=0)
    return tf.gather(places, tf.gather(tf.cumsum(tf.cast(flags, tf.int32), exclusive=True), at))


def _without_overlaps(begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Mark the spans that remain, from the first on, if none may begin before the last one ends.

    Args:
        begin: int64 [K], ascending.
        end: int64 [K], each greater than its `begin`.

    Returns:
        bool [K].
    """
    # The next span after each span; K is the end, whose next is itself. Spans that are reached from
    # the first remain. Each round doubles the length of all jumps, so there are as many rounds as
    # K has binary digits.
    n = tf.size(begin)
    jump = tf.concat([tf.searchsorted(begin, end), [n]], axis=0)  # [K + 1]
    reached = tf.equal(tf.range(n + 1), 0)

    def double(
        jump: tf.Tensor, reached: tf.Tensor, length: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        places = tf.boolean_mask(jump, reached)[:, None]
        reached = tf.tensor_scatter_nd_update(reached, places, tf.ones_like(places[:, 0], tf.bool))
        return tf.gather(jump, jump), reached, length * 2

    _, reached, _ = tf.while_loop(
        lambda jump, reached, length: length <= n, double, (jump, reached, tf.constant(1))
    )
    return reached[:-1]
