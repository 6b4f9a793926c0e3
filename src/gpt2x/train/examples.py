"""Labelled rows that are held in memory, and padded to few widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2x.corpus import Place
from gpt2x.train.data.identity import fingerprint

#: Columns of a batch at least.
LEAST_WIDTH = 16


class Example(NamedTuple):
    """A row.

    Attributes:
        input_ids: its tokens.
        target: what the model learns: an int, a float, or a list of one for each label or token.
        place: where it comes from.
        shown: what its line of predictions says besides the prediction.
        words: for each of its words the position of the first token, or None if that was cut off.
        is_labelled: whether the target is known; else it is any.
    """

    input_ids: list[int]
    target: Any
    place: Place
    shown: Mapping[str, Any]
    words: Sequence[int | None] = ()
    is_labelled: bool = True


class Examples:
    """Rows for the loop: see `gpt2x.train.feed.Rows`.

    A batch is as wide as its longest row, rounded up to a power of two, so that compilers meet few
    shapes. Padding stands on the right.

    Args:
        examples: the rows, in order.
        max_length: columns at most; no row is longer.
        pad_token_id: token of padding.
        dtype: of targets.
        target_padding: target of padding, where each token has one; else None.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        max_length: int,
        pad_token_id: int,
        dtype: type[np.generic],
        target_padding: int | None = None,
    ) -> None:
        self.examples = examples
        self._max_length, self._pad_token_id = max_length, pad_token_id
        self._dtype, self._target_padding = dtype, target_padding

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return input_ids, attention_mask int32 [R, W] and labels [R], [R, labels] or [R, W]."""
        examples = [self.examples[int(index)] for index in indices]
        ids = [example.input_ids for example in examples]
        targets = [example.target for example in examples]
        width = self._width(max(map(len, ids)))
        if self._target_padding is not None:
            targets = _padded(targets, width, self._target_padding)
        ones = [[1] * len(row) for row in ids]
        return {
            "input_ids": np.array(_padded(ids, width, self._pad_token_id), np.int32),
            "attention_mask": np.array(_padded(ones, width, 0), np.int32),
            "labels": np.array(targets, self._dtype),
        }

    def fingerprint(self) -> str:
        """Return what stands for the tokens and targets."""
        each = ((example.input_ids, example.target) for example in self.examples)
        return fingerprint(np.array(part) for pair in each for part in pair)

    def places(self, index: int) -> list[Place]:
        return [self.examples[index].place]

    def _width(self, length: int) -> int:
        return min(max(LEAST_WIDTH, 1 << (length - 1).bit_length()), self._max_length)


def _padded(rows: Sequence[list[int]], width: int, value: int) -> list[list[int]]:
    return [row + [value] * (width - len(row)) for row in rows]
