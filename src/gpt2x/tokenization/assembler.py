"""Making rows for the model of encoded sequences: special tokens, truncation, padding, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.encoding import EncodedSequence, Encoding, Piece, Span, windows
from gpt2x.tokenization.options import Padding, Truncation
from gpt2x.tokenization.template import FIRST, Template
from gpt2x.tokenization.token_table import TokenTable

# Package of a tensor's type -> its framework.
_TENSOR_KINDS = {"torch": "pt", "tensorflow": "tf", "jax": "jax", "jaxlib": "jax", "numpy": "np"}

_WHOLE = Truncation()
_NOTHING_AROUND = Template()


@dataclass(frozen=True)
class Assembler:
    """Makes rows of sequences.

    Attributes:
        table: gives special tokens their ids.
        template: the special tokens around sequences.
        pad_type_id: the token type of padding.
    """

    table: TokenTable
    template: Template = _NOTHING_AROUND
    pad_type_id: int = 0

    # Special tokens and truncation ----------------------------------------------------------------

    def row(
        self,
        first: EncodedSequence,
        second: EncodedSequence | None = None,
        truncation: Truncation = _WHOLE,
        *,
        with_overflow: bool = False,
    ) -> Encoding:
        """Return the row of one sequence, or of a pair.

        Args:
            first, second: the sequences.
            truncation: the length and the way to truncate.
            with_overflow: whether the removed tokens become further rows.
        """
        special = self.template.number_of_special_tokens(pair=second is not None)
        n_first = len(first.ids)
        n_second = None if second is None else len(second.ids)
        keep_first, keep_second = truncation.lengths(n_first, n_second, special)
        first_spans = _spans(n_first, keep_first, truncation, with_overflow)
        if second is None:
            rows = [self._row((first, span)) for span in first_spans]
        else:
            second_spans = _spans(n_second or 0, keep_second or 0, truncation, with_overflow)
            rows = [
                self._row((first, first_span), (second, second_span))
                for first_span, second_span in _overflow_order(first_spans, second_spans)
            ]
        row, *row.overflowing = rows
        return row

    def row_of_ids(self, ids: Sequence[int], pair_ids: Sequence[int] | None = None) -> Encoding:
        """Return the untruncated row of the ids of one sequence, or of a pair."""
        second = None if pair_ids is None else EncodedSequence(list(pair_ids))
        return self.row(EncodedSequence(list(ids)), second)

    def _row(self, *sequences: tuple[EncodedSequence, Span]) -> Encoding:
        pieces = []
        for name, type_id in self.template.pieces(pair=len(sequences) == 2):
            if isinstance(name, str):
                pieces.append(Piece([self.table.required_id(name)], type_id, token=name))
            else:
                sequence, (start, stop) = sequences[name]
                ids = sequence.ids[start:stop]
                pieces.append(Piece(ids, type_id, name - FIRST, sequence, start))
        return Encoding(pieces)

    # Padding --------------------------------------------------------------------------------------

    def pad(self, rows: list[Encoding], padding: Padding) -> None:
        """Pad rows to one length, in place."""
        target = padding.target([len(row) for row in rows])
        if target is None:
            return
        token, token_id = self._pad_token()
        for row in rows:
            missing = target - len(row)
            if missing > 0:
                ids = [token_id] * missing
                piece = Piece(ids, self.pad_type_id, token=token, attended=False)
                row.pieces.insert(len(row.pieces) if padding.side == "right" else 0, piece)

    def pad_entries(self, entries: dict[str, Any], main: str, padding: Padding) -> dict[str, Any]:
        """Return the rows of each entry, padded to one length.

        Args:
            entries: lists of rows, by name.
            main: the entry of the ids, whose lengths count.
            padding: the length and the side.
        """
        lengths = [len(row) for row in entries[main]]
        target = padding.target(lengths)
        if target is None:
            return entries
        fillers = {
            main: self._pad_token()[1],
            "attention_mask": 0,
            "token_type_ids": self.pad_type_id,
            "special_tokens_mask": 1,
        }

        def padded(row: list[Any], filler: int, missing: int) -> list[Any]:
            filling = [filler] * missing
            return row + filling if padding.side == "right" else filling + row

        return {
            name: [
                padded(row, fillers[name], target - length)
                for row, length in zip(rows, lengths, strict=True)
            ]
            if name in fillers
            else rows
            for name, rows in entries.items()
        }

    def _pad_token(self) -> tuple[str, int]:
        token = self.table.special.text("pad_token") or ""
        return token, self.table.required_id(token)


def _spans(length: int, keep: int, truncation: Truncation, with_overflow: bool) -> list[Span]:
    """Return the windows of a sequence of which a row keeps so many tokens."""
    if keep == length:
        return [(0, length)]
    if with_overflow:
        return windows(length, keep, truncation.stride, truncation.side)
    return [(0, keep) if truncation.side == "right" else (length - keep, length)]


def _overflow_order(first: list[Span], second: list[Span]) -> list[tuple[Span, Span]]:
    """Pair windows up: the first of both, the other windows of the first, those of the second."""
    return [
        (first[0], second[0]),
        *((a, b) for a in first[1:] for b in second),
        *((first[0], b) for b in second[1:]),
    ]


# Entries that exist already -----------------------------------------------------------------------


def as_entries(encoded: Any, main: str) -> dict[str, Any]:
    """Convert a dictionary, or a list of dictionaries, to a dictionary of lists.

    Raises:
        InvalidInputError: for anything else, and without an entry `main`.
    """
    if isinstance(encoded, Mapping):
        entries = dict(encoded)
    elif isinstance(encoded, Sequence) and encoded and isinstance(encoded[0], Mapping):
        entries = {name: [row[name] for row in encoded] for name in encoded[0]}
    else:
        raise InvalidInputError(
            "pad() takes what the tokenizer returned: a dictionary, or a list of dictionaries, not "
            f"{type(encoded).__name__}."
        )
    if main not in entries:
        raise InvalidInputError(f"There is no {main!r} to pad among {sorted(entries)}.")
    return entries


def as_rows(entries: dict[str, Any], main: str) -> tuple[dict[str, Any], bool]:
    """Convert tensors to lists and one row to a batch; also return whether there was a batch.

    Raises:
        InvalidInputError: if entries differ in their number of rows.
    """
    entries = {name: to_list(value) for name, value in entries.items()}
    is_batch = not entries[main] or isinstance(entries[main][0], list)
    if not is_batch:
        entries = {name: [value] for name, value in entries.items()}
    for name, value in entries.items():
        if len(value) != len(entries[main]):
            raise InvalidInputError(
                f"{main!r} has {len(entries[main])} rows, but {name!r} has {len(value)}."
            )
    return entries, is_batch


def tensor_kind(value: Any) -> str | None:
    """Name the framework of a tensor, or of the tensors in a list; None for plain lists."""
    while isinstance(value, (list, tuple)):
        if not value:
            return None
        value = value[0]
    return _TENSOR_KINDS.get(type(value).__module__.partition(".")[0])


def to_list(value: Any) -> Any:
    """Convert a tensor, or a list of tensors, to lists of Python numbers."""
    if isinstance(value, (list, tuple)):
        return [to_list(item) for item in value]
    if isinstance(value, (int, float, bool, str)) or value is None:
        return value
    return value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist()
