"""Texts that are written together, over slots without a model."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2x.batching.batch import Batch, Text
from gpt2x.batching.options import TextOptions
from gpt2x.errors import InvalidInputError
from support.fake_slots import VOCAB, FakeSlots, greedy, written


def make(prompt, count=5, receive=None):
    return Text(prompt=prompt, options=greedy(count), receive=receive or (lambda *_: True))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 8))
def test_texts_that_join_and_leave_at_any_step_are_as_if_alone(seed, rows, piece):
    rng = random.Random(seed)
    batch = Batch(FakeSlots(rows, 40), piece)
    stems = [[rng.randrange(VOCAB) for _ in range(20)] for _ in range(2)]

    def prompt():
        own = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 8))]
        return rng.choice(stems)[: rng.randrange(20)] + own

    waiting = [make(prompt(), rng.randrange(1, 12)) for _ in range(12)]
    texts, removed = list(waiting), []
    while waiting or batch.size:
        if waiting and batch.has_room and rng.random() < 0.7:
            batch.join(waiting.pop(0))
        if batch.texts and rng.random() < 0.1:
            removed.append(rng.choice(batch.texts))
            batch.remove(removed[-1], "cancelled")
        batch.step()
    for text in texts:
        assert text.reason == ("cancelled" if text in removed else "length")
        count = len(text.new) if text in removed else text.options.max_new_tokens
        assert text.new == written(text.prompt, count)


def test_a_long_prompt_does_not_stop_the_other_texts():
    batch = Batch(FakeSlots(2, 100), piece=4)
    quick = make([1, 2, 3], 30)
    batch.join(quick)
    batch.step()
    batch.join(make([5] * 50, 3))
    before = len(quick.new)
    for _ in range(10):
        batch.step()
    assert len(quick.new) == before + 10


def test_short_prompts_are_run_in_one_step():
    slots = FakeSlots(5, 40)
    batch = Batch(slots, piece=8)
    texts = [make([number, 1, 2]) for number in range(5)]
    for text in texts:
        batch.join(text)
    assert not batch.has_room
    batch.step()
    assert [len(text.new) for text in texts] == [2, 2, 2, 0, 0]
    batch.step()
    assert [len(text.new) for text in texts] == [3, 3, 3, 2, 2]


def test_a_text_that_waits_in_the_batch_can_be_removed():
    batch = Batch(FakeSlots(3, 40), piece=1)
    texts = [make([1, 2]), make([3, 4]), make([5, 6], 2)]
    for text in texts:
        batch.join(text)
    batch.step()
    batch.remove(texts[1], "cancelled")
    while batch.size:
        batch.step()
    assert [text.reason for text in texts] == ["length", "cancelled", "length"]
    assert texts[2].new == written([5, 6], 2)


def test_a_text_that_nothing_may_begin_ends_alone():
    def allowed(new):
        raise ValueError("nothing may follow")

    batch = Batch(FakeSlots(2, 40))
    options = TextOptions(max_new_tokens=6, temperature=0)
    text = Text(prompt=[1], options=options, receive=lambda *_: True, allowed=allowed)
    other = make([3])
    for each in (other, text):
        batch.join(each)
    while batch.size:
        batch.step()
    assert text.reason == "error"
    assert other.new == written([3], 5)


def test_the_beginning_of_a_prompt_is_run_once():
    slots = FakeSlots(4, 60)
    batch, stem = Batch(slots), list(range(20))
    for number in range(4):
        text = make([*stem, number], 1)
        batch.join(text)
        batch.step()
        assert text.cached_tokens == (20 if number else 0)
    assert slots.run == 21 + 3


def test_what_a_text_does_wrong_ends_it_alone():
    def fail(token, probabilities):
        raise RuntimeError("nobody listens")

    batch = Batch(FakeSlots(3, 40))
    texts = [make([1]), make([2], receive=fail), make([3])]
    for text in texts:
        batch.join(text)
        batch.step()
    while batch.size:
        batch.step()
    assert [text.reason for text in texts] == ["length", "error", "length"]
    assert str(texts[1].error) == "nobody listens"
    assert texts[2].new == written([3], 5)


def test_a_step_that_fails_ends_its_texts_and_no_later_one():
    class Failing(FakeSlots):
        def decode(self, tokens, starts):
            raise MemoryError("no room")

    slots = Failing(2, 40)
    batch, text = Batch(slots), make([1, 2])
    batch.join(text)
    batch.step()
    assert text.reason == "error"
    assert isinstance(text.error, MemoryError)
    slots.decode = FakeSlots(2, 40).decode
    slots.decode.__self__._tokens = slots._tokens
    later = make([1, 2, 3])
    batch.join(later)
    while batch.size:
        batch.step()
    assert later.new == written([1, 2, 3], 5)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_step_that_fails_for_one_text_ends_it_alone(failing):
    class Failing(FakeSlots):
        def decode(self, tokens, starts):
            logits = super().decode(tokens, starts)
            if written([failing], 3)[2] in tokens:
                raise MemoryError("no room")
            return logits

    batch = Batch(Failing(4, 40))
    texts = [make([number]) for number in range(3)]
    for text in [*texts, make(range(9))]:
        batch.join(text)
        batch.step()
    while batch.size:
        batch.step()
    stumbles = written([failing], 3)[2]
    for number, text in enumerate(texts):
        expected = written([number], 5)
        if stumbles in expected[:-1]:
            expected = expected[: expected.index(stumbles) + 1]
            assert isinstance(text.error, MemoryError)
        else:
            assert text.reason == "length"
        assert text.new == expected
    assert texts[failing].reason == "error"


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([], 1, "0 tokens"),
        ([1] * 41, 1, "41 tokens"),
        ([1] * 38, 4, "do not fit"),
        ([VOCAB], 1, "0 to 22"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(prompt, count, message):
    with pytest.raises(InvalidInputError, match=message):
        Batch(FakeSlots(1, 40)).join(make(prompt, count))


def test_only_allowed_tokens_follow():
    def allowed(new):
        found = np.zeros(VOCAB, bool)
        found[[len(new), 9]] = True
        return found

    batch = Batch(FakeSlots(2, 40))
    options = TextOptions(max_new_tokens=6, temperature=0, logit_bias={9: -100.0})
    text = Text(prompt=[1, 2], options=options, receive=lambda *_: True, allowed=allowed)
    other = make([3], 9)
    for each in (text, other):
        batch.join(each)
        batch.step()
    while batch.size:
        batch.step()
    assert text.new == [0, 1, 2, 3, 4, 5]
    assert other.new == written([3], 9)


def test_a_text_that_nothing_may_follow_ends_alone():
    def allowed(new):
        if new:
            raise ValueError("nothing may follow")
        return np.ones(VOCAB, bool)

    batch = Batch(FakeSlots(2, 40))
    text = Text(prompt=[1], options=greedy(5), receive=lambda *_: True, allowed=allowed)
    other = make([3])
    for each in (other, text):
        batch.join(each)
        batch.step()
    while batch.size:
        batch.step()
    assert text.reason == "error"
    assert other.new == written([3], 5)


def test_drawn_tokens_follow_the_seed_of_each_text():
    def draw(seed):
        batch = Batch(FakeSlots(2, 40))
        options = TextOptions(max_new_tokens=20, temperature=2.0, seed=seed)
        text = Text(prompt=[1, 2], options=options, receive=lambda *_: True)
        batch.join(text)
        while batch.size:
            batch.step()
        return text.new

    assert draw(1) == draw(1) != draw(2)


def test_penalties_count_the_new_text_alone():
    batch = Batch(FakeSlots(1, 40))
    options = TextOptions(max_new_tokens=VOCAB, temperature=0, presence_penalty=2.0)
    strong = TextOptions(
        max_new_tokens=VOCAB, temperature=0, frequency_penalty=2.0, logit_bias={3: 100.0}
    )
    plain = written([3, 3], VOCAB)
    found = []
    for each in (options, strong):
        text = Text(prompt=[3, 3], options=each, receive=lambda *_: True)
        batch.join(text)
        while batch.size:
            batch.step()
        found.append(text.new)
    assert len(set(found[0])) > len(set(plain))
    assert found[1] == [3] * VOCAB  # the bias is stronger than 2 for each occurrence
    assert np.bincount(found[0], minlength=VOCAB).max() < np.bincount(plain, minlength=VOCAB).max()
