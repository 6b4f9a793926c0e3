"""Drawn calls of `generate` give the same tokens in the three frameworks, alone and in batches.

`tests/parity/drawn_calls.py` compares many more; a call that fails here is repeated by its number.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorflow")
pytest.importorskip("jax")

from support.drawn_calls import GROUP, STRATEGIES, drawn_call  # noqa: E402
from support.same_tokens import Models, compare  # noqa: E402

SEED = 0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"), ["tf", "flax"])


@pytest.fixture(scope="module")
def pytorch(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("pytorch"), [])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["greedy", "sampling", "beams"])
def test_the_same_tokens_in_every_framework(strategy, models):
    """One group of calls, so that each framework compiles once or twice."""
    first = list(STRATEGIES).index(strategy) * GROUP
    for number in range(first, first + GROUP):
        check(models, number)


def test_the_same_tokens_alone_in_batches_and_step_by_step(pytorch):
    for number in range(1000, 1040):
        check(pytorch, number)


def check(models, number):
    call = drawn_call(SEED, number)
    assert not [found for found in compare(models, call) if not found.is_tie], (number, call)
