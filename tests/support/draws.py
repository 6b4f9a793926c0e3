"""A test of random draws."""

from __future__ import annotations

import numpy as np


def assert_drawn_from(probabilities: np.ndarray, counts: np.ndarray) -> None:
    """Assert that a chi-square test finds the counts likely under the probabilities."""
    expected = probabilities * counts.sum()
    assert (counts[expected == 0] == 0).all()
    likely = expected >= 5
    rare_expected, rare_counts = expected[~likely].sum(), counts[~likely].sum()
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    if rare_expected > 0:
        chi_square += (rare_counts - rare_expected) ** 2 / rare_expected
    freedom = likely.sum() - 1 + (rare_expected > 0)
    # Wilson and Hilferty: the cube root of chi-square / freedom is nearly normal.
    spread = 2 / (9 * freedom)
    z = ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5
    assert z < 3.1  # a wrong distribution gives tens or hundreds
