"""Stopping criteria: each alone, and inside a decoding step."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    ConfidenceCriteria,
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    validate_stopping_criteria,
)
from support.decoding import decode
from support.fake_engine import ALPHABET, EOS, VOCAB_SIZE, SpellingEngine, read, spell


class Letters:
    """A tokenizer of one letter a token."""

    def decode(self, ids, **options):
        return "".join(ALPHABET[index] for index in ids)


class Pieces:
    """A tokenizer of longer tokens."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def decode(self, ids, **options):
        return "".join(self.pieces[index] for index in ids)


def tell(stories, prompt, **options):
    ids = spell(*prompt)
    return read(
        decode(
            lambda ops: SpellingEngine(ops, stories, ids.shape[1]),
            ids,
            vocab_size=VOCAB_SIZE,
            **{"eos_token_id": EOS, "max_new_tokens": 8, **options},
        )
    )


def test_stop_strings_end_each_row_where_it_says_so():
    options = {"stop_strings": ["cd", "zz"], "plan_options": {"tokenizer": Letters()}}
    assert tell(["abcdefghij", "pqrszztuvw"], ["a", "p"], **options) == ["abcd$$", "pqrszz"]


def test_stop_strings_end_beams():
    options = {"stop_strings": "cd", "plan_options": {"tokenizer": Letters()}, "num_beams": 2}
    assert tell(["abcdefghij"], ["a"], **options) == ["abcd"]


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        (("st", "op"), True),
        (("stop",), True),
        (("st", "opera"), True),
        (("las", "topper"), True),
        (("sto", "pper"), True),
        (("stop", "at"), False),  # it was complete before
        (("st", "o"), False),
        (("st", "pop"), False),
        (("stops", "top"), True),
    ],
)
def test_stop_strings_match_where_the_last_token_completes_them(pieces, ends):
    criterion = StopStringCriteria(Pieces(*pieces), "stop")
    ids = np.arange(len(pieces))[None, :]
    assert criterion(ids, None).tolist() == [ends]


def test_a_users_criterion_sees_text_and_scores_and_ends_rows():
    seen = []

    class Vowels(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append((input_ids.shape, None if scores is None else len(scores)))
            assert scores is None or isinstance(scores, tuple)
            return np.isin(input_ids[:, -1], spell("aeiou"))

    options = {"plan_options": {"stopping_criteria": [Vowels()]}}
    assert tell(["bcdefgh", "xyzbcde"], ["b", "x"], **options) == ["bcde$$$", "xyzbcde"]
    assert seen == [((2, length), None) for length in range(2, 8)]
    seen.clear()
    kept = {"return_dict_in_generate": True, "output_scores": True}
    ids = spell("b")
    output = decode(
        lambda ops: SpellingEngine(ops, ["bcdefgh"], 1),
        ids,
        vocab_size=VOCAB_SIZE,
        max_new_tokens=8,
        plan_options={"stopping_criteria": Vowels()},
        **kept,
    )
    assert read(output.sequences) == ["bcde"]
    assert seen == [((1, 2), 1), ((1, 3), 2), ((1, 4), 3)]


def test_a_criterion_may_answer_for_all_rows():
    options = {"plan_options": {"stopping_criteria": [lambda ids, scores: ids.shape[1] >= 3]}}
    assert tell(["abcdef", "uvwxyz"], ["a", "u"], **options) == ["abc", "uvw"]


def test_time_runs_out():
    assert tell(["abcdef"], ["a"], max_time=0.0) == ["ab"]
    assert tell(["abcdef"], ["a"], max_time=3600.0, max_new_tokens=5) == ["abcdef"]
    assert MaxTimeCriteria(1.0, initial_timestamp=time.time() - 2)(spell("a"), None).all()


def test_criteria_can_be_called_as_a_list():
    criteria = StoppingCriteriaList([MaxLengthCriteria(4), EosTokenCriteria(3)])
    assert criteria.max_length == 4
    assert criteria(np.array([[1, 2], [1, 3]]), None).tolist() == [False, True]
    assert criteria(np.array([[1, 2, 1, 1]]), None).tolist() == [True]


def test_a_limit_is_added_to_criteria_without_one():
    assert validate_stopping_criteria(StoppingCriteriaList(), 7).max_length == 7
    limited = StoppingCriteriaList([MaxLengthCriteria(7), EosTokenCriteria([3, 4])])
    assert list(validate_stopping_criteria(limited, 7)) == list(limited)
    assert limited[1].eos_token_id.tolist() == [3, 4]
    with pytest.warns(UserWarning, match="max_length 7, not at 8"):
        validate_stopping_criteria(limited, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaxLengthCriteria(0),
        lambda: StopStringCriteria(Letters(), []),
        lambda: StopStringCriteria(Letters(), [""]),
        lambda: EosTokenCriteria(-1),
    ],
)
def test_criteria_that_cannot_be_met_are_refused(make):
    with pytest.raises(InvalidInputError):
        make()


def test_a_token_that_was_unlikely_ends_its_row():
    ids, scores = np.array([[5, 1], [5, 0]]), np.log([[0.7, 0.3], [0.7, 0.3]])
    assert ConfidenceCriteria(0.5)(ids, (scores,)).tolist() == [True, False]
    with pytest.raises(InvalidInputError, match="reads the scores of each step"):
        ConfidenceCriteria(0.5)(ids, None)
