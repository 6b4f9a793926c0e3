"""Constraints: their methods, their arrays, and the texts that contain them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
)
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.processors.base import to_device
from gpt2x.generation.results import TransitionScores
from gpt2x.generation.strategies import ConstrainedBeamSearch
from gpt2x.generation.strategies.automaton import Automaton, Progress, added, automaton, banks
from support.decoding import decode
from support.fake_engine import MarkovEngine

PROMPTS = np.array([[1, 2], [3, 3], [4, 4]], np.int32)
WORDS = [[7, 8], [[9, 5, 6], [9, 4]]]


def search(prompts=PROMPTS, **options):
    return decode(
        lambda ops: MarkovEngine(ops, prompts, 12, seed=4),
        prompts,
        vocab_size=12,
        **{
            "max_new_tokens": 9,
            "eos_token_id": 0,
            "pad_token_id": 11,
            "num_beams": 4,
            "force_words_ids": WORDS,
            **options,
        },
    )


def contains(text, phrase):
    return any(
        text[start : start + len(phrase)] == phrase for start in range(len(text) - len(phrase) + 1)
    )


# ---- the classes ----------------------------------------------------------------------------


def test_a_phrase_advances_token_by_token():
    phrase = PhrasalConstraint([1, 2, 3])
    assert (phrase.advance(), phrase.remaining(), phrase.completed) == (1, 3, False)
    assert phrase.update(1) == (True, False, False)
    assert phrase.update(2) == (True, False, False)
    copied, fresh = phrase.copy(stateful=True), phrase.copy()
    assert (copied.advance(), copied.remaining(), fresh.advance()) == (3, 1, 1)
    assert phrase.update(3) == (True, True, False)
    assert phrase.completed
    assert phrase.advance() is None
    assert not phrase.does_advance(1)
    assert copied.update(9) == (False, False, True)
    assert (copied.advance(), copied.remaining()) == (1, 3)


def test_a_choice_is_fulfilled_by_the_end_of_any_phrase():
    choice = DisjunctiveConstraint([[1, 2, 3], [1, 2, 4, 5], [1, 6]])
    assert choice.seqlen == 4
    assert choice.update(1) == (True, False, False)
    assert choice.advance() == [2, 6]
    copied = choice.copy(stateful=True)
    assert choice.update(6) == (True, True, False)
    assert (choice.completed, choice.remaining(), choice.advance()) == (True, 0, None)
    assert copied.update(2) == (True, False, False)
    assert (copied.advance(), copied.remaining()) == ([3, 4], 2)
    assert copied.update(6) == (False, False, True)
    assert copied.advance() == [1]


def test_a_list_follows_one_constraint_at_a_time():
    state = ConstraintListState([PhrasalConstraint([1, 2]), DisjunctiveConstraint([[1, 3], [4]])])
    assert state.advance() == [1, 1, 4]
    assert state.add(1) == (False, True)
    assert (state.advance(), state.get_bank()) == ([2], 1)
    assert state.add(3) == (False, False)  # breaks it off, and does not begin another
    assert (state.get_bank(), state.inprogress_constraint) == (0, None)
    assert state.advance() == [1, 4, 1]  # the broken one is the last now
    assert state.add(4) == (True, True)
    copied = state.copy()
    state.reset([1, 2, 9, 1, 3])
    assert state.completed
    assert state.add(1) == (True, False)
    assert (copied.completed, copied.get_bank(), copied.advance()) == (False, 2, [1])
    assert state.copy(stateful=False).get_bank() == 0


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (PhrasalConstraint, []),
        (PhrasalConstraint, (1, 2)),
        (PhrasalConstraint, [1, -2]),
        (PhrasalConstraint, [1, "2"]),
        (DisjunctiveConstraint, []),
        (DisjunctiveConstraint, [1, 2]),
        (DisjunctiveConstraint, [[1], []]),
        (DisjunctiveConstraint, [[1, 2], [1, 2, 3]]),
        (DisjunctiveConstraint, [[1, 2], [1, 2]]),
        (ConstraintListState, []),
    ],
)
def test_constraints_check_their_arguments(kind, argument):
    with pytest.raises(InvalidInputError):
        kind(argument)


def test_tokens_must_be_ints():
    for constraint in (PhrasalConstraint([1]), DisjunctiveConstraint([[1]])):
        with pytest.raises(TypeError, match="must be an int"):
            constraint.update("1")
    with pytest.raises(TypeError, match="must be an int"):
        ConstraintListState([PhrasalConstraint([1])]).add(1.0)


class Repeated(Constraint):
    """A class of a user's own: the same token several times."""

    def __init__(self, token, times, step=1):
        self.token, self.seqlen, self.step, self.done = token, times, step, 0
        super().__init__()
        self.reset()

    def advance(self):
        return self.token

    def does_advance(self, token_id):
        return token_id == self.token

    def update(self, token_id):
        self.done += self.step
        return True, self.done == self.seqlen, False

    def reset(self):
        self.done = 0

    def remaining(self):
        return self.seqlen - self.done

    def copy(self, stateful=False):
        return Repeated(self.token, self.seqlen)


def test_classes_of_ones_own_are_checked_and_can_be_followed():
    state = ConstraintListState([Repeated(3, 2)])
    assert state.add(3) == (False, True)
    assert state.add(3) == (True, True)
    assert state.completed
    with pytest.raises(InvalidInputError, match="did not fulfil it"):
        Repeated(3, 2, step=0)
    with pytest.raises(InvalidInputError, match="Classes of your own cannot be used"):
        search(force_words_ids=None, constraints=[Repeated(3, 2)])


# ---- the arrays -----------------------------------------------------------------------------

phrases = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(
    words=st.lists(
        st.one_of(phrases, st.lists(phrases, min_size=1, max_size=3)), min_size=1, max_size=4
    ),
    text=st.lists(st.integers(0, 4), max_size=20),
)
def test_the_arrays_follow_a_text_as_the_objects_do(words, text):
    try:
        constraints = [
            DisjunctiveConstraint(word) if isinstance(word[0], list) else PhrasalConstraint(word)
            for word in words
        ]
    except InvalidInputError:  # a phrase begins with another
        return
    arrays = Automaton(*(to_device(NUMPY_OPS, value) for value in automaton(constraints)))
    progress = Progress(np.zeros(1, np.int32), arrays.places[None, :])
    state = ConstraintListState(constraints)
    for token in text:
        progress = added(NUMPY_OPS, arrays, progress, np.array([token], np.int32))
        state.add(token)
        assert banks(NUMPY_OPS, arrays, progress)[0] == state.get_bank()
        assert bool((progress.places < 0).all() and progress.node[0] == 0) == state.completed


# ---- the texts ------------------------------------------------------------------------------


def test_texts_contain_the_phrases_and_end_only_then():
    output = search(return_dict_in_generate=True, output_scores=True)
    for text in output.sequences.tolist():
        assert contains(text, [7, 8])
        assert contains(text, [9, 5, 6]) or contains(text, [9, 4])
    transitions = TransitionScores().compute_transition_scores(
        output.sequences, output.scores, output.beam_indices
    )
    generated = (output.beam_indices >= 0).sum(axis=1)
    np.testing.assert_allclose(
        transitions.sum(axis=1) / generated, output.sequences_scores, rtol=1e-5
    )


def test_constraints_are_the_same_as_force_words_ids():
    objects = [PhrasalConstraint(WORDS[0]), DisjunctiveConstraint(WORDS[1])]
    np.testing.assert_array_equal(search(force_words_ids=None, constraints=objects), search())
    both = search(force_words_ids=WORDS[1:], constraints=objects[:1])
    np.testing.assert_array_equal(both, search())


def test_what_the_prompt_contains_counts_but_its_padding_does_not():
    prompt = np.array([[1, 7, 8, 2]], np.int32)
    options = {"force_words_ids": [[7, 8]], "eos_token_id": None}
    free = search(prompt, **{**options, "force_words_ids": [[2]]})
    np.testing.assert_array_equal(search(prompt, **options), free)
    mask = np.array([[0, 0, 0, 1]])
    padded = search(prompt, mask=mask, **options)
    assert contains(padded[0, 4:].tolist(), [7, 8])


def test_a_prompt_whose_beams_all_stop_ends_whatever_the_others_of_its_batch_do():
    options = {"eos_token_id": 8, "force_words_ids": [[7], [8, 8]], "num_beams": 2}
    options |= {"num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}
    together = search(**options)
    lengths = []
    for row in range(3):
        alone = search(PROMPTS[row : row + 1], **options)
        rows, width = slice(2 * row, 2 * row + 2), alone.sequences.shape[1]
        lengths.append(width)
        np.testing.assert_array_equal(together.sequences[rows, :width], alone.sequences)
        assert (together.sequences[rows, width:] == 11).all()
        np.testing.assert_allclose(
            together.sequences_scores[rows], alone.sequences_scores, rtol=1e-6
        )
    assert min(lengths) < max(lengths) == together.sequences.shape[1] < 11


def test_other_phrases_of_the_same_size_use_the_same_computation():
    first, second = (automaton([PhrasalConstraint(ids)]) for ids in ([1, 2, 3], [4, 5, 6]))
    assert [np.shape(value) for value in first] == [np.shape(value) for value in second]
    fields = {"capacity": 8, "steps": 4, "num_beams": 3}
    assert ConstrainedBeamSearch(**fields) == ConstrainedBeamSearch(**fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 1}, "needs num_beams > 1"),
        ({"do_sample": True}, "needs do_sample=False"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "needs num_beam_groups=1"),
        ({"force_words_ids": []}, "must be a non-empty list"),
        ({"force_words_ids": 3}, "must be a non-empty list"),
        ({"force_words_ids": [3]}, "each item is a phrase"),
        ({"force_words_ids": [[]]}, "each item is a phrase"),
        ({"force_words_ids": [[[]]]}, "non-empty list of token ids"),
        ({"force_words_ids": [[-1]]}, "integers of at least 0"),
        ({"force_words_ids": [[[1], [1, 2]]]}, "may begin with another"),
        ({"force_words_ids": [[[1], 2]]}, "non-empty list of token ids"),
        ({"force_words_ids": [[12]]}, "token id 12, but the vocabulary has the ids 0 to 11"),
        ({"force_words_ids": [[[3], [12]]]}, "token id 12"),
        ({"constraints": []}, "constraints must be a non-empty list"),
        ({"constraints": [[1]]}, "constraints must be a non-empty list"),
    ],
)
def test_constraints_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        search(**options)
