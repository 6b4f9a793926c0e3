"""Rows in memory: few widths, padding on the right."""

import numpy as np
import pytest

from gpt2x.corpus import Place
from gpt2x.train.examples import Example, Examples


def make(lengths, targets, **options):
    examples = [
        Example([*range(1, length + 1)], target, Place("rows.csv", number), {})
        for number, (length, target) in enumerate(zip(lengths, targets, strict=True), 2)
    ]
    return Examples(examples, **{"max_length": 40, "pad_token_id": 9, **options})


@pytest.mark.parametrize(
    ("length", "width"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 40), (40, 40)]
)
def test_widths_are_powers_of_two_up_to_the_longest_row(length, width):
    rows = make([length, 1], [0, 1], dtype=np.int32).rows(np.array([0, 1]))
    assert rows["input_ids"].shape == (2, width)
    assert rows["attention_mask"].sum(axis=1).tolist() == [length, 1]
    assert (rows["input_ids"][rows["attention_mask"] == 0] == 9).all()
    assert rows["input_ids"][0, :length].tolist() == [*range(1, length + 1)]


def test_targets_of_texts_and_of_tokens():
    whole = make([2, 3], [1, 0], dtype=np.int32).rows(np.array([1, 0]))
    assert whole["labels"].tolist() == [0, 1]
    several = make([2, 3], [[1.0, 0.0], [0.0, 1.0]], dtype=np.float32).rows(np.array([1]))
    assert several["labels"].dtype == np.float32
    assert several["labels"].tolist() == [[0.0, 1.0]]
    tokens = make([2, 3], [[5, -100], [5, 6, 7]], dtype=np.int32, target_padding=-100)
    assert tokens.rows(np.array([0]))["labels"].tolist() == [[5, *[-100] * 15]]


def test_rows_name_their_places():
    rows = make([2, 3], [1, 0], dtype=np.int32)
    assert len(rows) == 2
    assert [str(place) for place in rows.places(1)] == ["rows.csv, line 3"]
