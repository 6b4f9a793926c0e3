"""The order of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x import InvalidInputError
from gpt2x.train.data import Order

seeds = st.integers(0, 2**64 - 1)


@given(seeds, st.integers(1, 300), st.integers(0, 1000))
def test_each_epoch_has_every_row_once(seed, length, epoch):
    rows = Order(seed, length)(epoch * length + np.arange(length))
    assert rows.dtype == np.int64
    assert sorted(rows) == list(range(length))


@given(seeds, st.integers(1, 2**62), st.lists(st.integers(0, 2**61), min_size=1, max_size=5))
def test_rows_are_in_range_and_depend_on_their_position_alone(seed, length, positions):
    order = Order(seed, length)
    rows = order(np.array(positions))
    assert (rows >= 0).all()
    assert (rows < length).all()
    assert [order(np.array([position]))[0] for position in positions] == rows.tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    places = np.arange(1000)
    first = Order(1, 1000)(places)
    others = [Order(1, 1000)(places + 1000), Order(2, 1000)(places), Order(1 + 2**32, 1000)(places)]
    for other in [places, *others]:
        # Two drawn permutations share one place in the mean.
        assert (first == other).sum() < 10


def test_every_row_is_as_likely_first():
    firsts = [Order(seed, 5)(np.arange(0, 5 * 50, 5)) for seed in range(40)]
    counts = np.bincount(np.concatenate(firsts), minlength=5)
    assert (abs(counts - 400) < 80).all()  # 4.5 standard deviations


@pytest.mark.parametrize(("seed", "length"), [(-1, 3), (2**64, 3), (0, 0)])
def test_what_has_no_order_is_refused(seed, length):
    with pytest.raises(InvalidInputError):
        Order(seed, length)
