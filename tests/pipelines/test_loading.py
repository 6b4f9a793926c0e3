"""`pipeline`: what it loads, and what it refuses; no framework is needed."""

from __future__ import annotations

import pytest

from gpt2x import pipeline
from gpt2x.pipelines.base import each
from support.pipelines import folder


def test_an_unknown_task_lists_the_tasks():
    with pytest.raises(ValueError, match="task is 'text-gen'; allowed are 'text-generation'"):
        pipeline("text-gen")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give a task, a model or both"),
        ({"task": "text-generation", "tokenizer": "x"}, "A tokenizer is given without a model"),
        ({"task": "text-generation", "framework": "torch"}, "allowed are 'pt', 'tf', 'flax'"),
        (
            {"task": "text-generation", "framework": "pt", "backend": "tf"},
            "framework='pt' and backend='tf' are the same argument",
        ),
        ({"task": "text-generation", "model": object()}, "A object is given without its tokenizer"),
        ({"model": folder("feature-extraction") / "no"}, "no"),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises((ValueError, OSError), match=message):
        pipeline(**options)


def test_inputs_are_read_by_iteration_or_by_number():
    class Numbered:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return "abcd"[number]

    assert list(each(Numbered())) == ["a", "b", "c"]
    assert list(each(iter("ab"))) == ["a", "b"]
    with pytest.raises(ValueError, match="one input, a list, or another iterable; got 3"):
        each(3)
