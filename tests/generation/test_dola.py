"""DoLa on logits drawn at random, and a plain computation to compare it with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.plan import make_plan
from gpt2x.generation.strategies import DoLaGreedy, DoLaSample, Outputs
from gpt2x.generation.strategies.dola import dola_layers


def contrast(last: np.ndarray, early: np.ndarray, layers: tuple[int, ...]) -> np.ndarray:
    strategy = DoLaGreedy(capacity=4, steps=2, layers=layers)
    return strategy.logits(NUMPY_OPS, Outputs(last, layer_logits=early))


def plainly(last: np.ndarray, early: np.ndarray) -> np.ndarray:
    """Contrast one text's logits [V] with those of its layers [layers, V], in float64."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum())

    p = log_softmax(last.astype(np.float64))
    qs = [log_softmax(layer.astype(np.float64)) for layer in early]
    divergences = []
    for q in qs:
        mean = (np.exp(p) + np.exp(q)) / 2
        divergences.append((mean * (2 * np.log(mean) - p - q)).sum())
    scores = p - qs[int(np.argmax(divergences))]
    scores[p < p.max() + np.log(0.1)] = -np.inf
    return scores


@pytest.mark.parametrize("layers", [(1,), (0, 2), (0, 1, 3)])
def test_each_row_is_contrasted_with_its_most_different_layer(layers):
    generator = np.random.default_rng(4)
    last = generator.normal(0, 2, (5, 20)).astype(np.float32)
    early = generator.normal(0, 2, (5, len(layers), 20)).astype(np.float32)
    found = contrast(last, early, layers)
    expected = np.stack([plainly(*row) for row in zip(last, early, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for row in range(5):  # the rows around it change nothing
        alone = contrast(last[row : row + 1], early[row : row + 1], layers)
        np.testing.assert_array_equal(alone[0], found[row])


def test_probabilities_of_zero_are_no_divergence():
    last = np.array([[0.0, -2000.0, 1.0]], np.float32)
    early = np.array([[[0.0, -2000.0, 1.0], [1.0, -2000.0, 0.0]]], np.float32)
    found = contrast(last, early, (0, 1))
    np.testing.assert_allclose(found, [[-1.0, -np.inf, 1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "n_layer", "is_tied", "expected"),
    [
        ("low", 12, True, (2, 4)),
        ("low", 12, False, (0, 2, 4)),
        ("high", 12, True, (6, 8, 10)),
        ("low", 48, True, tuple(range(2, 20, 2))),
        ("high", 48, True, tuple(range(28, 48, 2))),
        ("low", 4, True, (2,)),
        ("low", 2, True, (1,)),
        ("low", 1, True, (0,)),
        ("low", 1, False, (0,)),
        ("high", 1, True, (0,)),
        ("high", 3, True, (1,)),
        ([5, 1, 12], 12, True, (5, 1)),
    ],
)
def test_layers_by_name(wanted, n_layer, is_tied, expected):
    assert dola_layers(wanted, n_layer, is_tied) == expected


@pytest.mark.parametrize(
    ("wanted", "n_layer", "message"),
    [
        ("middle", 12, "must be 'low', 'high' or a list of layers; got 'middle'"),
        (3, 12, "must be 'low', 'high' or a list of layers, integers"),
        ([-1], 12, "integers of at least 0"),
        ([12, 13], 12, "names none of the layers .* pass a list of layers from 0 to 11"),
        ([], 12, "names none of the layers"),
        ("low", 3, "names none of the layers"),
    ],
)
def test_layers_that_a_model_does_not_have_are_refused(wanted, n_layer, message):
    with pytest.raises(InvalidInputError, match=message):
        dola_layers(wanted, n_layer, True)


def plan_for(**fields: Any) -> Any:
    sizes = {"batch_size": 1, "prompt_length": 4, "n_positions": 40, "vocab_size": 30}
    return make_plan(GenerationConfig(**fields), n_layer=12, **sizes)


def test_the_plan_of_greedy_search_and_of_sampling():
    greedy = plan_for(dola_layers="high").strategy
    assert type(greedy) is DoLaGreedy
    assert greedy.needs.layers == (6, 8, 10)
    sample = plan_for(dola_layers=[1, 2], do_sample=True, top_k=7).strategy
    assert type(sample) is DoLaSample
    assert sample.samples
    assert sample.width > 0


@pytest.mark.parametrize("fields", [{"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_beams_cannot_be_contrasted(fields):
    with pytest.raises(InvalidInputError, match="with greedy search and sampling only"):
        plan_for(dola_layers="low", **fields)
