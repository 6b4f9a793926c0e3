"""A batch in a thread of its own."""

from __future__ import annotations

import threading
import time

import pytest

from gpt2x.batching.batch import Batch, Text
from gpt2x.batching.runner import BusyError, Runner, StoppingError
from gpt2x.errors import InvalidInputError
from support.fake_slots import FakeSlots, greedy, written


class Gate(FakeSlots):
    """Slots whose steps wait until they are let through."""

    def __init__(self, rows, columns):
        super().__init__(rows, columns)
        self.open = threading.Event()

    def decode(self, tokens, starts):
        assert self.open.wait(20)
        return super().decode(tokens, starts)


def submitted(runner, prompt=(1, 2), count=5, **fields):
    """Return a text that was submitted, and what is set when it ends."""
    done = threading.Event()
    text = Text(
        prompt=prompt, options=greedy(count), receive=lambda *_: True, ended=done.set, **fields
    )
    runner.submit([text])
    return text, done


@pytest.fixture
def runner():
    found = Runner(Batch(FakeSlots(2, 40)), max_queue=100)
    yield found
    found.stop()


@pytest.fixture
def gated():
    """A runner of one row, and its gate."""
    slots = Gate(1, 40)
    found = Runner(Batch(slots), max_queue=2)
    yield found, slots.open
    slots.open.set()
    found.stop()


def test_texts_of_many_threads_are_written(runner):
    found = []

    def client(number):
        for step in range(5):
            text, done = submitted(runner, (number, step))
            assert done.wait(20)
            found.append(text.new == written(text.prompt, 5))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40
    assert runner.waiting == runner.running == 0


def test_a_full_queue_refuses_at_once(gated):
    runner, gate = gated
    running = submitted(runner)
    while runner.waiting:  # until it has joined
        time.sleep(0.001)
    waiting = [submitted(runner) for _ in range(2)]
    with pytest.raises(BusyError, match="2 texts are waiting"):
        submitted(runner)
    gate.set()
    for text, done in (running, *waiting):
        assert done.wait(20)
        assert text.reason == "length"


def test_cancelled_texts_end_and_free_their_rows(gated):
    runner, gate = gated
    running, running_done = submitted(runner, count=30)
    while runner.waiting:
        time.sleep(0.001)
    waiting, waiting_done = submitted(runner, (3,))
    other, other_done = submitted(runner, (4,))
    runner.cancel(running)
    runner.cancel(waiting)
    gate.set()
    for done in (running_done, waiting_done, other_done):
        assert done.wait(20)
    assert (running.reason, waiting.reason) == ("cancelled", "cancelled")
    assert len(running.new) < 30
    assert not waiting.new
    assert other.new == written([4], 5)


def test_a_text_whose_time_is_over_ends(gated):
    runner, gate = gated
    text, done = submitted(runner, count=30, deadline=time.monotonic())
    gate.set()
    assert done.wait(20)
    assert text.reason == "time"


def test_stopping_lets_texts_end_and_takes_no_more():
    slots = Gate(1, 40)
    runner = Runner(Batch(slots), max_queue=5)
    text, _ = submitted(runner)
    threading.Timer(0.05, slots.open.set).start()
    runner.stop(grace=20)
    assert text.reason == "length"
    with pytest.raises(StoppingError):
        submitted(runner)


def test_stopping_cancels_what_takes_longer_than_the_grace():
    slots = Gate(1, 40)
    runner = Runner(Batch(slots), max_queue=5)
    texts = [submitted(runner, count=30) for _ in range(2)]
    threading.Timer(0.2, slots.open.set).start()
    runner.stop(grace=0.01)
    assert [text.reason for text, _ in texts] == ["cancelled", "cancelled"]


def test_a_text_that_does_not_fit_is_refused_before_it_waits(runner):
    with pytest.raises(InvalidInputError, match="do not fit"):
        submitted(runner, [1] * 39, 9)


@pytest.mark.parametrize("name", ["swap", "prefill", "choose"])
def test_an_error_of_the_slots_ends_texts_and_not_the_runner(runner, name):
    setattr(runner._batch._slots, name, None)  # which cannot be called
    texts = [submitted(runner, (number, 2), 3 + number) for number in range(4)]
    for _, done in texts:
        assert done.wait(20)
    assert "error" in {text.reason for text, _ in texts}
    delattr(runner._batch._slots, name)
    text, done = submitted(runner, (7,))
    assert done.wait(20)
    assert text.new == written([7], 5)
