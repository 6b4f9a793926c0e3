"""Scores of predictions, against values worked out by hand."""

import numpy as np
import pytest

from gpt2x.train import metrics

pytest.importorskip("sklearn")


def test_single_labels():
    targets, found = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    # F1 of the three labels: 2/3, 2/3 and 1.
    assert metrics.of_single_labels(targets, found) == pytest.approx(
        {"accuracy": 0.75, "f1": (2 / 3 + 2 / 3 + 1) / 3}
    )


def test_several_labels():
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    found = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    # F1 of the first label is 1, of the second 0; nothing has the third.
    assert metrics.of_several_labels(targets, found) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 0.5, "f1_micro": 0.8}
    )
    one = metrics.of_several_labels(targets[:, :1], found[:, :1])
    assert one == {"accuracy": 1.0, "f1": 1.0, "f1_micro": 1.0}
    none = np.zeros((2, 2), int)
    assert metrics.of_several_labels(none, none) == {"accuracy": 1.0, "f1": 1.0, "f1_micro": 1.0}


def test_numbers():
    targets = np.array([1.0, 2.0, 3.0])
    assert metrics.of_numbers(targets, -2 * targets) == pytest.approx(
        {"mse": (9 + 36 + 81) / 3, "pearson": -1.0}
    )
    for constant in (targets * 0, targets[:1]):
        assert metrics.of_numbers(targets[: len(constant)], constant)["pearson"] == 0.0


def test_entities():
    targets = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    found = [["B-PER", "O", "O"], ["B-LOC", "B-PER"]]
    # One of three predicted entities is right, and one of two is found.
    assert metrics.of_tags(targets, found) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "accuracy": 3 / 5}
    )
    nothing = metrics.of_tags([["O", "O"]], [["O", "O"]])
    assert nothing == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


def test_tags_that_are_not_entities():
    scores = metrics.of_tags([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    assert scores == pytest.approx({"accuracy": 2 / 3, "f1": 0.4})
