"""Classifier-free guidance, as a processor; the second context is the engine's."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.processors import Context, Processors
from gpt2x.generation.processors.build import build_processors
from gpt2x.generation.processors.guidance import ClassifierFreeGuidance

WITH, WITHOUT = np.random.default_rng(7).normal(size=(2, 3, 11)).astype(np.float32) * 3
IDS = np.ones((3, 2), np.int64)


def guided(scale):
    processor = ClassifierFreeGuidance(scale)
    context = Context(IDS, IDS > 0, 2, WITHOUT)
    return processor.apply(NUMPY_OPS, WITH, context, processor.static, processor.values)


def test_scores_move_away_from_the_second_context():
    # By transformers 4.57.6, for the first row.
    expected = [
        -3.170199,
        -4.635983,
        -4.411308,
        -8.347871,
        -7.761593,
        -7.975999,
        -3.950791,
        1.476281,
        -6.699592,
        -5.343544,
        -2.298912,
    ]
    np.testing.assert_allclose(guided(1.5)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "logits"), [(1.0, WITH), (0.0, WITHOUT), (0, WITHOUT)])
def test_one_and_zero_are_the_two_contexts(scale, logits):
    np.testing.assert_allclose(guided(scale), NUMPY_OPS.log_softmax(logits), atol=2e-6)


def test_guidance_comes_first():
    def kinds(**fields):
        processors = build_processors(
            GenerationConfig(sequence_bias=[[[3], 1.0]], **fields),
            eos=[],
            prompt_length=2,
            max_length=4,
            min_length=0,
            rows_per_prompt=1,
        )
        return [kind for kind, _ in Processors.of(processors).kinds]

    assert kinds(guidance_scale=1.5) == [ClassifierFreeGuidance, *kinds()]
    assert kinds(guidance_scale=1) == kinds()


def test_guidance_without_a_second_context_is_refused():
    with pytest.raises(InvalidInputError, match="logits of a second context"):
        ClassifierFreeGuidance(1.5)(IDS, WITH)
    with pytest.raises(InvalidInputError, match="`guidance_scale` must be a finite number"):
        ClassifierFreeGuidance("high")
    with pytest.raises(InvalidInputError, match="`guidance_scale` must be a finite number"):
        ClassifierFreeGuidance(float("nan"))
