"""Diverse beam search on models that need no weights; golden texts are tested in each framework."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import HammingDiversityLogitsProcessor, LogitsProcessorList
from gpt2x.generation.results import TransitionScores
from support.decoding import decode
from support.fake_engine import MarkovEngine

PROMPTS = np.array([[1, 2], [3, 3], [4, 4]], np.int32)
GROUPS = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.8}


def search(prompts=PROMPTS, **options):
    return decode(
        lambda ops: MarkovEngine(ops, prompts, 12, seed=4),
        prompts,
        vocab_size=12,
        **{"max_new_tokens": 7, "eos_token_id": 0, "pad_token_id": 5, **GROUPS, **options},
    )


def full(**options):
    return search(
        return_dict_in_generate=True, output_scores=True, num_return_sequences=6, **options
    )


def test_beam_indices_and_scores_add_up_to_the_score_of_each_text():
    output = full(length_penalty=0.7)
    transitions = TransitionScores().compute_transition_scores(
        output.sequences, output.scores, output.beam_indices
    )
    generated = (output.beam_indices >= 0).sum(axis=1)
    assert generated.min() < generated.max() == 7
    np.testing.assert_allclose(
        transitions.sum(axis=1) / generated**0.7, output.sequences_scores, rtol=1e-5
    )
    assert (np.diff(output.sequences_scores.reshape(3, 6), axis=1) <= 0).all()


def test_the_first_group_searches_as_if_it_were_alone():
    output = full(eos_token_id=None)
    alone = search(
        num_beams=2,
        num_beam_groups=1,
        diversity_penalty=0.0,
        num_return_sequences=2,
        eos_token_id=None,
    )
    first = output.beam_indices[:, -1] % 6 < 2
    np.testing.assert_array_equal(output.sequences[first], alone)


def test_groups_choose_other_tokens_under_a_large_penalty():
    output = search(
        num_return_sequences=6, num_beam_groups=6, diversity_penalty=50.0, eos_token_id=None
    )
    for texts in output.reshape(3, 6, -1):
        assert len(set(texts[:, 2].tolist())) == 6


def test_a_batch_of_prompts_searches_as_each_alone():
    together = search()
    for row in range(3):
        alone = search(PROMPTS[row : row + 1])
        width = alone.shape[1]
        np.testing.assert_array_equal(together[row : row + 1, :width], alone)
        assert (together[row, width:] == 5).all()


def test_texts_that_a_criterion_ends_get_an_eos_if_there_is_room():
    options = {"num_return_sequences": 6, "suppress_tokens": [0]}
    ended = search(
        **options, plan_options={"stopping_criteria": lambda ids, scores: ids.shape[1] > 4}
    )
    np.testing.assert_array_equal(ended[:, 5:], 0)
    assert ended.shape == (18, 6)
    full_length = search(**options)
    assert full_length.shape == (18, 9)


def test_a_criterion_ends_each_prompt_of_a_batch_as_it_does_alone():
    def stops(ids, scores):
        return ids.shape[1] > 3 + ids[:, 0]  # at another step for each prompt

    options = {
        "num_return_sequences": 6,
        "suppress_tokens": [0],
        "plan_options": {"stopping_criteria": stops},
    }
    together = search(**options)
    for row in range(3):
        alone = search(PROMPTS[row : row + 1], **options)
        width = alone.shape[1]
        assert width == 5 + PROMPTS[row, 0]
        assert (alone[:, -1] == 0).all()
        rows = together[6 * row : 6 * row + 6]
        np.testing.assert_array_equal(rows[:, :width], alone)
        assert (rows[:, width:] == 5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 5}, "num_beams must be divisible by num_beam_groups, but they are 5 and 3"),
        ({"num_beams": 2}, "must be divisible"),
        ({"diversity_penalty": 0.0}, "diversity_penalty is 0"),
        ({"num_beam_groups": 1}, "set num_beam_groups to 2 or more"),
        ({"do_sample": True}, "cannot sample; set do_sample=False"),
        ({"num_beam_groups": 0}, "num_beam_groups must be an integer of at least 1"),
        ({"diversity_penalty": -1.0}, "diversity_penalty must be a number at least 0"),
        ({"num_return_sequences": 7}, "must be at most num_beams"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        search(**options)


def test_the_processor_lowers_the_tokens_of_earlier_groups():
    scores = np.zeros((4, 5), np.float32)  # two prompts, groups of two beams
    tokens = np.array([1, 1, 3, 0, 0, 0, 2, 4, 4, 0, 0, 0])
    processor = HammingDiversityLogitsProcessor(0.5, num_beams=6, num_beam_groups=3)
    ids = np.zeros((4, 1), np.int32)
    np.testing.assert_array_equal(processor(ids, scores, tokens, 0), scores)
    expected = -0.5 * np.array([[0, 2, 0, 0, 0]] * 2 + [[0, 0, 1, 0, 1]] * 2)
    np.testing.assert_array_equal(processor(ids, scores, tokens, 1), expected)
    processors = LogitsProcessorList([processor])
    expected = -0.5 * np.array([[1, 2, 0, 1, 0]] * 2 + [[1, 0, 1, 0, 2]] * 2)
    processed = processors(ids, scores, current_tokens=tokens, beam_group_idx=2)
    np.testing.assert_array_equal(processed, expected)
    with pytest.raises(InvalidInputError, match="needs 'current_tokens'"):
        processors(ids, scores)


@pytest.mark.parametrize(
    "arguments", [(0.0, 4, 2), ("1", 4, 2), (1.0, 1, 2), (1.0, 4, 1), (1.0, 2, 4), (1.0, 4.0, 2)]
)
def test_the_processor_checks_its_arguments(arguments):
    with pytest.raises(InvalidInputError):
        HammingDiversityLogitsProcessor(*arguments)


def test_a_users_processor_of_that_class_takes_the_place_of_the_built_in_one():
    processor = HammingDiversityLogitsProcessor(0.8, num_beams=6, num_beam_groups=3)
    options = {"num_return_sequences": 6, "eos_token_id": None}
    weak = {**options, "diversity_penalty": 0.1}
    replaced = search(**weak, plan_options={"user_processors": [processor]})
    np.testing.assert_array_equal(replaced, search(**options))
    assert (search(**weak) != replaced).any()
