"""Batches, streams and progress, on a pipeline without a model."""

from __future__ import annotations

import pytest

from gpt2x.models.checks import reject_unknown
from gpt2x.pipelines import Pipeline, Results
from gpt2x.pipelines.base import Piece


class Letters(Pipeline):
    """Answers with the letters of a text in upper case; each is a row of the model."""

    name = "letters"

    def __init__(self, batch_size=None):
        self.task = self.name
        self.batches: list[list[str]] = []
        self._batch_size = batch_size or 1
        self._settings = self._parse()

    def _parse(self, *, mark="", **unknown):
        reject_unknown(self._parse, unknown)
        return {"mark": mark} if mark else {}

    def _pieces(self, value, settings):
        return [Piece({"input_ids": [number]}, letter) for number, letter in enumerate(value)]

    def _forward(self, pieces, settings):
        self.batches.append([piece.context for piece in pieces])
        return [piece.context.upper() for piece in pieces]

    def _answer(self, pieces, settings):
        return "".join(piece.output for piece in pieces) + settings.get("mark", "")


TEXTS = ["ab", "c", "def", "g"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batches_change_no_answer_and_no_order(size: int):
    pipe = Letters()
    assert pipe(TEXTS, batch_size=size) == ["AB", "C", "DEF", "G"]
    letters = "".join(TEXTS)
    expected = [list(letters[i : i + size]) for i in range(0, len(letters), size)]
    assert pipe.batches == expected


def test_a_pipeline_has_a_batch_size_of_its_own():
    pipe = Letters(batch_size=4)
    pipe(TEXTS)
    assert [len(batch) for batch in pipe.batches] == [4, 3]
    pipe(TEXTS, batch_size=7)
    assert len(pipe.batches[-1]) == 7


def test_the_form_of_the_answer_is_that_of_the_inputs():
    pipe = Letters()
    assert pipe("ab") == "AB"
    assert pipe(["ab"]) == pipe(("ab",)) == ["AB"]
    assert pipe([]) == []
    assert pipe.predict("ab") == pipe.transform("ab") == "AB"


def test_a_stream_is_read_as_its_answers_are():
    read = []

    def texts():
        for text in TEXTS:
            read.append(text)
            yield text

    pipe = Letters()
    answers = pipe(texts())
    assert isinstance(answers, Results)
    assert read == []
    assert next(answers) == "AB"
    assert read == ["ab"]
    assert list(answers) == ["C", "DEF", "G"]
    with pytest.raises(TypeError):
        len(answers)


def test_a_data_set_has_a_length():
    class Data:
        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, number):
            return TEXTS[number]

    answers = Letters()(Data(), batch_size=2)
    assert len(answers) == 4
    assert list(answers) == ["AB", "C", "DEF", "G"]


def test_progress_is_told():
    told = []
    Letters()(TEXTS, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told.clear()
    list(Letters()(iter(TEXTS), progress=lambda *numbers: told.append(numbers)))
    assert told == [(1, None), (2, None), (3, None), (4, None)]


def test_progress_is_a_bar_on_standard_error(capfd):
    assert Letters()(TEXTS, progress=True) == ["AB", "C", "DEF", "G"]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "letters" in printed.err
    assert "100%" in printed.err


def test_options_of_a_call_come_before_those_of_the_pipeline():
    pipe = Letters()
    assert pipe("a", mark="!") == "A!"
    assert pipe("a") == "A"
    pipe._settings = pipe._parse(mark="?")
    assert pipe("a") == "A?"
    assert pipe("a", mark="!") == "A!"


def test_bad_options_and_inputs_raise_before_anything_runs():
    pipe = Letters()
    with pytest.raises(ValueError, match=r"unknown argument 'marc'\. Did you mean 'mark'"):
        pipe(TEXTS, marc="!")
    with pytest.raises(ValueError, match="batch_size is 0; it must be an integer of at least 1"):
        pipe(TEXTS, batch_size=0)
    with pytest.raises(ValueError, match="one input, a list, or another iterable; got 3"):
        pipe(3)
    assert pipe.batches == []
