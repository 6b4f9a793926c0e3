"""Permutations of PyTorch's generator; tests/pt compares with PyTorch itself."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.generation.permutation import is_among_first, permutation


@pytest.mark.parametrize(
    ("seed", "size", "first"),  # torch.randperm, of PyTorch 2.13
    [
        (0, 10, [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]),
        (15485863, 1000003, [138280, 994103, 467886, 915329, 149437, 806681, 915993, 784932]),
        (9223372036870261671, 50257, [11143, 24953, 16461, 1065, 22072, 14429, 17607, 3162]),
        (7185440432, 50257, [41876, 29678, 27809, 32747, 48942, 20113, 36556, 8375]),
        (18446744073709551614, 7, [3, 1, 0, 2, 4, 6, 5]),
    ],
)
def test_permutations_are_those_of_pytorch(seed, size, first):
    assert permutation(seed, size, len(first)).tolist() == first


@pytest.mark.parametrize("size", [1, 2, 40])
def test_the_whole_permutation_has_every_item(size):
    assert sorted(permutation(7, size, size)) == list(range(size))
    assert permutation(7, size, 0).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 13, 50])
def test_an_item_alone_is_found_where_the_permutation_has_it(count):
    first = permutation(11, 50, count)
    found = [item for item in range(50) if is_among_first(11, 50, count, item)]
    np.testing.assert_array_equal(found, np.sort(first))
