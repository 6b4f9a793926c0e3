"""How often XLA compiles `generate` in Flax, counted by JAX: once for a strategy and a bucket."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.generation.generate import steps
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


def test_functions_on_the_host_compile_nothing_again(model, compiled):
    """Each call has a criterion and a watermark of its own; the model's calls stay the same."""
    ids, options = next(calls("greedy"))
    for key in (5, 6):
        compiled.clear()
        watermark = {"hashing_key": key, "context_width": 1}
        criterion = [lambda ids, scores: False]
        model.generate(ids, stopping_criteria=criterion, watermarking_config=watermark, **options)
    assert not compiled


def test_one_compilation_serves_chunks_of_every_size(model, compiled, monkeypatch):
    monkeypatch.setattr("gpt2x.generation.generate.QUICK", np.inf)
    (ids, options), *others = calls("sampling")
    model.generate(ids, **options)
    compiled.clear()
    model.generate(ids, streamer=print, **options)
    assert len(compiled) == 1  # of the loop without the prompts
    for chunk, (ids, options) in zip((1, 2, 8), others, strict=True):
        seed = options.pop("seed", None)
        kwargs = {"input_ids": ids, **options}
        assert len([*steps(model.generation_host(), chunk=chunk, seed=seed, kwargs=kwargs)])
    assert len(compiled) == 1
