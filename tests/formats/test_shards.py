"""Shards: how weights are spread over files, and sizes as people write them."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.formats import shards


def test_examples_in_docstrings():
    assert doctest.testmod(shards).failed == 0


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 100), min_size=1), st.integers(1, 150))
def test_shards_hold_everything_once_and_are_not_too_large(sizes, limit):
    plan = shards.plan_shards(sizes, limit, "model.safetensors")
    assert [name for shard in plan for name in shard.names] == list(sizes)
    for shard in plan:
        assert len(shard.names) == 1 or sum(sizes[name] for name in shard.names) <= limit
    assert len({shard.file for shard in plan}) == len(plan)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("200MiB", 200 * 2**20), ("1.5kb", 1500), (77, 77), ("8 TB", 8 * 10**12)],
)
def test_sizes(text, size):
    assert shards.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "5XB", "1e9", None, 0])
def test_bad_sizes(text):
    with pytest.raises(InvalidInputError, match="max_shard_size"):
        shards.parse_size(text)
