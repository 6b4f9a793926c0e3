"""Running each computation of some slots once, so that a compiler has nothing to do later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2x.batching.choice import TextTable, Variant
from gpt2x.batching.options import TextOptions
from gpt2x.batching.slots import Slots


def warm_up(
    slots: Slots, widths: Sequence[int], row_sizes: Sequence[int], column_sizes: Sequence[int]
) -> None:
    """Run slots in every size for which they have functions.

    Args:
        slots: that no text has used.
        widths: numbers of tokens of `prefill`; with `every` only the last is run.
        row_sizes, column_sizes: of `decode`.
    """
    last = slots.rows - 1
    for width in widths:
        slots.prefill(0, np.zeros(width, np.int32), 0)
    every = slots.prefill(last, np.zeros(widths[-1], np.int32), 0, every=True)
    slots.log_probabilities(every, np.zeros(widths[-1], np.int32))
    slots.logits_at(every, 0)
    table = TextTable(slots.rows, slots.columns + 1, slots.vocab_size)
    for row in range(slots.rows):
        table.put(row, [0], TextOptions(max_new_tokens=1))
    for rows in row_sizes:
        for columns in column_sizes:
            tokens = np.zeros(rows, np.int32)
            logits = slots.decode(tokens, np.full(rows, columns - 1, np.int32))
            slots.copy(0, last, columns)  # a row that is run, and below one that is not
        for edits in (False, True):
            variant = Variant(edits=edits)
            slots.choose(logits, table.values(slice(0, rows), variant), variant)
        slots.log_probabilities(logits, tokens)
    slots.swap(0, last, 1)
    slots.copy(last, 0, 1)
