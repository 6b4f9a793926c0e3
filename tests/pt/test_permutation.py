"""Permutations in numpy against PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.generation.permutation import is_among_first, permutation


def expected(seed: int, size: int) -> np.ndarray:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()


@given(seed=st.integers(0, 2**64 - 1), size=st.integers(1, 500), data=st.data())
def test_permutations_are_those_of_the_installed_release(seed, size, data):
    count = data.draw(st.integers(0, size))
    item = data.draw(st.integers(0, size - 1))
    first = expected(seed, size)[:count]
    np.testing.assert_array_equal(permutation(seed, size, count), first)
    assert is_among_first(seed, size, count, item) == (item in first)


@pytest.mark.parametrize("size", [50257, 1_000_003])
def test_large_permutations_are_those_of_the_installed_release(size):
    np.testing.assert_array_equal(permutation(3, size, size), expected(3, size))
