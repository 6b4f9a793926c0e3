"""What labels of data make: the problem, their names and numbers."""

import pytest

from gpt2x import GPT2Config
from gpt2x.corpus import Place
from gpt2x.errors import DataError
from gpt2x.train import labels


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["yes", "no"], "single_label_classification"),
        ([0, 1, 2], "single_label_classification"),
        (["1.0", 2, "3"], "single_label_classification"),
        ([True, False], "single_label_classification"),
        (["0.5", "good"], "single_label_classification"),
        (["nan", 0.5], "single_label_classification"),
        ([0.5, 1], "regression"),
        (["0.5", "-2e3"], "regression"),
        ([["a"], []], "multi_label_classification"),
    ],
)
def test_the_labels_tell_the_problem(values, problem):
    assert labels.problem_of(values) == problem


def test_names():
    assert labels.names_of(["a", 3, 3.0, True, 2.5, "2.0"]) == ["a", "3", "3", "true", "2.5", "2.0"]
    for bad in ("", None, {}, [1], float("nan")):
        assert labels.names_of(["a", bad]) is None


def test_names_are_in_order():
    assert labels.in_order(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert labels.in_order(["b", "a", "10", "9"]) == ["10", "9", "a", "b"]


def test_lists_in_text():
    assert labels.parsed_list('["a", "b"]') == ["a", "b"]
    for other in ("[a]", "a, b", 3, ["a"]):
        assert labels.parsed_list(other) is other


def test_a_trained_model_keeps_the_numbers_of_its_labels():
    trained = GPT2Config(id2label={0: "positive", 1: "negative"})
    kept = labels.numbered(["negative", "positive"], trained)
    assert kept["id2label"] == {0: "positive", 1: "negative"}
    assert labels.numbered(["neg", "pos"], trained)["label2id"] == {"neg": 0, "pos": 1}


def test_a_label_that_training_has_not_names_its_place():
    config = GPT2Config(id2label={0: "a", 1: "b"})
    assert labels.ids_of(["b", "a"], config, Place("f.csv", 3)) == [1, 0]
    with pytest.raises(DataError, match=r"f\.csv, line 3: the label 'c' is not one of .*'a', 'b'"):
        labels.ids_of(["b", "c"], config, Place("f.csv", 3))
