"""How often XLA compiles `generate` in Flax, counted by JAX: once for a strategy and a bucket."""

from __future__ import annotations

import pytest

from support.compilations import STRATEGIES, calls
from support.flax_models import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(n_layer=1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_compilation_serves_other_values_and_lengths(strategy, model, compiled):
    (ids, options), *others = calls(strategy)
    model.generate(ids, **options)
    assert compiled
    compiled.clear()
    for ids, options in others:
        model.generate(ids, **options)
    assert not compiled
