"""The rows of each step."""

import numpy as np
import pytest

from gpt2x.train.feed import Portion, Prefetched, ShuffledFeed, StreamedFeed
from support.training import Sequences


def take(feed, count, state=None):
    portions = feed.portions(state or {})
    return [next(portions) for _ in range(count)]


def test_every_row_comes_once_an_epoch_and_steps_cross_epochs():
    rows = Sequences(10)
    rows.ids = rows.labels = np.arange(10)[:, None]
    feed = ShuffledFeed(rows, 3, 4)
    portions = take(feed, 5)
    ids = np.concatenate([portion.inputs["input_ids"][:, 0] for portion in portions])
    assert sorted(ids[:10]) == sorted(ids[10:]) == [*range(10)]
    assert [*ids[:10]] != [*ids[10:]]
    assert [portion.state for portion in portions] == [{"rows": 4 * n} for n in range(1, 6)]
    assert feed.epoch(portions[-1].state) == 2.0
    (again,) = take(feed, 1, portions[1].state)
    np.testing.assert_array_equal(again.inputs["input_ids"], portions[2].inputs["input_ids"])
    expected = [rows.places(index)[0] for index in portions[2].inputs["input_ids"][:, 0]]
    assert again.places() == expected


class Counting:
    """A stream of numbers."""

    number = 0

    def __next__(self):
        self.number += 1
        return {"input_ids": np.array([self.number])}

    def places(self):
        return [self.number]

    def state(self):
        return {"number": self.number, "epoch": self.number / 10}

    def restore(self, state):
        self.number = state["number"]


def test_streams_go_on_where_they_stood():
    first, second = take(StreamedFeed(Counting(), 3), 2)
    assert [*second.inputs["input_ids"][:, 0]] == [4, 5, 6]
    assert first.places() == [3]
    feed = StreamedFeed(Counting(), 3)
    (again,) = take(feed, 1, first.state)
    np.testing.assert_array_equal(again.inputs["input_ids"], second.inputs["input_ids"])
    assert feed.epoch(again.state) == 0.6


def test_what_is_prepared_ahead_comes_in_order_and_ends():
    portions = Prefetched(iter([Portion({"n": n}, list, {}) for n in range(3)]))
    assert [next(portions).inputs["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(portions)
    portions.close()
    endless = Prefetched(iter(lambda: Portion({}, list, {}), None))
    next(endless)
    endless.close()
