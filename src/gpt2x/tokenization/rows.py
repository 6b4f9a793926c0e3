"""Rows from sequences: special tokens, truncation into windows, padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpt2x.tokenization.encoding import EncodedSequence, Encoding, Piece, Span, windows
from gpt2x.tokenization.options import Padding, Truncation
from gpt2x.tokenization.template import FIRST, Template


@dataclass(frozen=True)
class RowBuilder:
    """Makes rows of sequences.

    Attributes:
        template: the special tokens around them.
        truncation: how long a row may be.
        with_overflow: whether rows are made of what truncation removes, too.
        token_to_id: gives the id of a special token.
    """

    template: Template
    truncation: Truncation
    with_overflow: bool
    token_to_id: Callable[[str], int]

    def build(self, first: EncodedSequence, second: EncodedSequence | None) -> Encoding:
        """Return the row of one sequence, or of a pair."""
        special = self.template.number_of_special_tokens(pair=second is not None)
        n_first = len(first.ids)
        n_second = None if second is None else len(second.ids)
        keep_first, keep_second = self.truncation.lengths(n_first, n_second, special)
        first_spans = self._spans(n_first, keep_first)
        if second is None:
            rows = [self._row((first, span)) for span in first_spans]
        else:
            second_spans = self._spans(n_second or 0, keep_second or 0)
            rows = [
                self._row((first, first_span), (second, second_span))
                for first_span, second_span in _overflow_order(first_spans, second_spans)
            ]
        row, *row.overflowing = rows
        return row

    def _spans(self, length: int, keep: int) -> list[Span]:
        """The windows of a sequence of which a row keeps so many tokens."""
        if keep == length:
            return [(0, length)]
        if self.with_overflow:
            return windows(length, keep, self.truncation.stride, self.truncation.side)
        return [(0, keep) if self.truncation.side == "right" else (length - keep, length)]

    def _row(self, *sequences: tuple[EncodedSequence, Span]) -> Encoding:
        pieces = []
        for name, type_id in self.template.pieces(pair=len(sequences) == 2):
            if isinstance(name, str):
                pieces.append(Piece([self.token_to_id(name)], type_id, token=name))
            else:
                sequence, (start, stop) = sequences[name]
                ids = sequence.ids[start:stop]
                pieces.append(Piece(ids, type_id, name - FIRST, sequence, start))
        return Encoding(pieces)


def _overflow_order(first: list[Span], second: list[Span]) -> list[tuple[Span, Span]]:
    """Pair windows up: the first of both, the other windows of the first, those of the second."""
    return [
        (first[0], second[0]),
        *((a, b) for a in first[1:] for b in second),
        *((first[0], b) for b in second[1:]),
    ]


def pad_rows(
    rows: list[Encoding], padding: Padding, pad_id: int, pad_token: str, pad_type_id: int
) -> None:
    """Bring rows to one length, in place."""
    target = padding.target([len(row) for row in rows])
    for row in rows:
        missing = 0 if target is None else target - len(row)
        if missing > 0:
            piece = Piece([pad_id] * missing, pad_type_id, token=pad_token, attended=False)
            row.pieces.insert(len(row.pieces) if padding.side == "right" else 0, piece)
