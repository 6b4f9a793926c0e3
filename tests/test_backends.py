"""`set_seed` repeats what Python and numpy draw; the frameworks' tests have their part."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gpt2x import backends, set_seed


def draws() -> list[float]:
    return [random.random(), np.random.rand()]


def test_a_seed_repeats_what_python_and_numpy_draw():
    set_seed(7)
    first = draws()
    assert draws() != first
    set_seed(7)
    assert draws() == first
    set_seed(np.int64(7))
    assert draws() == first
    set_seed(8)
    assert draws() != first


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", None, True])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="A seed is an integer from 0 to 2\\*\\*32 - 1"):
        set_seed(seed)


def test_only_models_of_this_package_run():
    with pytest.raises(ValueError, match="model is a dict; it must be a model of this package"):
        backends.of({})
