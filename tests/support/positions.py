"""Masks and the positions that follow from them, which the backends' tests share."""

from __future__ import annotations

import numpy as np

#: Padding before, behind and on both sides of a text, holes, no text, and nothing to hide.
MASK = np.array(
    [
        [0, 0, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [1, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
    ]
)
POSITIONS = np.array(
    [
        [0, 0, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [0, 0, 1, 2, 3, 4],
        [0, 0, 1, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
)
