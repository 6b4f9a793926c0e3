"""Prompts whose beginning is in a cache: the columns that move, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation.cached_prompt import behind_text, for_rows
from gpt2x.models.prompt_cache import CachedText

PREFIX = CachedText(np.array([[7, 8, 9]]), np.ones((1, 3), bool))
PADDED = CachedText(np.array([[7, 8, 9], [0, 5, 6]]), np.array([[1, 1, 1], [0, 1, 1]], bool))


def test_padding_moves_behind_the_prefix():
    ids = np.array([[0, 0, 7, 8, 9, 1], [7, 8, 9, 1, 2, 3]])
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    given = {"position_ids": np.arange(12).reshape(2, 6), "token_type_ids": np.arange(6)[None]}
    moved, moved_mask = behind_text(PREFIX, ids, mask, given)
    assert moved.tolist() == [[7, 8, 9, 0, 0, 1], [7, 8, 9, 1, 2, 3]]
    assert moved_mask.tolist() == [[1, 1, 1, 0, 0, 1], [1] * 6]
    assert given["position_ids"].tolist() == [[2, 3, 4, 0, 1, 5], [6, 7, 8, 9, 10, 11]]
    assert given["token_type_ids"].tolist() == [[2, 3, 4, 0, 1, 5], [0, 1, 2, 3, 4, 5]]


def test_prompts_that_begin_with_the_cached_columns_stay():
    ids = np.array([[7, 8, 9, 0, 1], [7, 8, 9, 1, 2]])
    mask = np.array([[1, 1, 1, 0, 1], [1] * 5])
    for text, row in ((PREFIX, slice(None)), (PADDED, slice(0, 0))):
        found, kept = behind_text(text, ids[row], mask[row], {})
        assert found.tolist() == ids[row].tolist()
        assert kept.tolist() == mask[row].tolist()
    found, none = behind_text(PREFIX, ids, None, {})
    assert found is ids
    assert none is None


def test_padding_of_the_cache_is_kept():
    """What stands at a masked column does not matter."""
    ids = np.array([[3, 7, 8, 9, 1], [4, 2, 5, 6, 1]])
    mask = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    moved, moved_mask = behind_text(PADDED, ids, mask, {})
    assert moved.tolist() == [[7, 8, 9, 3, 1], [4, 5, 6, 2, 1]]
    assert moved_mask.tolist() == [[1, 1, 1, 0, 1], [0, 1, 1, 0, 1]]


@pytest.mark.parametrize(
    ("text", "ids", "mask", "message"),
    [
        (PREFIX, [[7, 8, 1, 1]], None, "Prompt 0 .* token 2 is 1, and 9 in the cache.*crop.2."),
        (PREFIX, [[0, 0, 7, 8, 9]], [[0, 0, 1, 1, 1]], "hold 3 tokens and prompt 0 only 3"),
        (PREFIX, [[7, 8]], None, "hold 3 tokens and prompt 0 only 2"),
        (
            PADDED,
            [[7, 8, 9, 1], [5, 6, 1, 1]],
            [[1] * 4] * 2,
            "hold 1 columns of padding in row 1, and prompt 1 has 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text, ids, mask, message):
    mask = None if mask is None else np.array(mask)
    with pytest.raises(InvalidInputError, match=message):
        behind_text(text, np.array(ids), mask, {})


def test_positions_of_new_columns_alone_cannot_move():
    ids, mask = np.array([[0, 7, 8, 9, 1]]), np.array([[0, 1, 1, 1, 1]])
    with pytest.raises(InvalidInputError, match="position_ids"):
        behind_text(PREFIX, ids, mask, {"position_ids": np.array([[3, 4]])})


def test_a_cache_gets_its_rows():
    cache = SimpleNamespace(batch_size=1, fork=lambda copies: f"{copies} rows")
    assert for_rows(cache, 4) == "4 rows"
    assert for_rows(cache, 1) is cache
    for rows in (3, 0):
        cache.batch_size = rows
        assert for_rows(cache, 3) is cache
