"""From the scores of first and last tokens to spans."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.pipelines.scores import sigmoid, softmax
from gpt2x.pipelines.spans import best_spans, span_scores


def test_scores_are_probabilities_of_the_context():
    is_context = np.array([True, False, True, True])
    start, end = span_scores(np.array([0.0, 9.0, 1.0, 2.0]), np.zeros(4), is_context)
    np.testing.assert_allclose([start.sum(), end.sum()], 1)
    assert start[1] == end[1] == 0
    np.testing.assert_allclose(end[is_context], 1 / 3)
    np.testing.assert_allclose(start[3] / start[2], np.e)


def test_the_best_span_has_the_largest_product():
    start, end = np.array([0.0, 0.1, 0.7, 0.1, 0.1]), np.array([0.0, 0.5, 0.1, 0.3, 0.1])
    assert best_spans(start, end, 1, 15) == [(2, 3, pytest.approx(0.21))]
    # The last token is not before the first.
    assert all(first <= last for first, last, _ in best_spans(start, end, 25, 15))


def test_spans_come_best_first():
    draw = np.random.default_rng(0)
    start, end = draw.random(5), draw.random(5)
    every = best_spans(start, end, 25, 15)
    scores = [score for *_, score in every]
    assert scores == sorted(scores, reverse=True)
    for count in (1, 2, 5):
        assert best_spans(start, end, count, 15) == every[:count]


def test_a_span_is_no_longer_than_asked():
    start, end = np.array([0.0, 0.9, 0.0, 0.0, 0.1]), np.array([0.0, 0.1, 0.2, 0.0, 0.7])
    assert best_spans(start, end, 1, 4)[0][:2] == (1, 4)
    assert best_spans(start, end, 1, 3)[0][:2] == (1, 2)
    assert best_spans(start, end, 1, 1)[0][:2] == (1, 1)


def test_the_first_token_and_what_has_no_probability_are_left_out():
    start = end = np.array([0.9, 0.0, 0.6, 0.0, 0.0])
    assert best_spans(start, end, 1, 15)[0][:2] == (2, 2)
    assert start[0] == 0.9
    assert best_spans(start, start * [1, 1, 0, 1, 1], 25, 15) == []


def test_functions():
    np.testing.assert_allclose(softmax(np.array([[1.0, 1.0], [1000.0, 0.0]])), [[0.5, 0.5], [1, 0]])
    np.testing.assert_allclose(sigmoid(np.array([0.0, 2.0])), [0.5, 1 / (1 + np.exp(-2.0))])
