"""Streamers: words as they are completed, to a terminal, a queue or a function."""

from __future__ import annotations

import asyncio
import threading
from queue import Empty

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    AsyncTextIteratorStreamer,
    BaseStreamer,
    TextIteratorStreamer,
    TextStreamer,
)
from gpt2x.generation.streamers import as_streamer

WORDS = ["In", " the", " begin", "ning", "\n", "God", "天", "地", "<end>"]


class Tokenizer:
    def decode(self, ids, skip_special_tokens=False):
        words = [WORDS[index] for index in ids]
        return "".join(word for word in words if not (skip_special_tokens and word == "<end>"))


class Log(TextStreamer):
    def __init__(self, **options):
        super().__init__(Tokenizer(), **options)
        self.log = []

    def on_finalized_text(self, text, stream_end=False):
        self.log.append((text, stream_end))


def _feed(streamer, prompt, tokens):
    streamer.put(np.array([prompt]))
    for token in tokens:
        streamer.put(np.array([token]))
    streamer.end()


def test_words_come_when_they_are_complete():
    streamer = Log()
    _feed(streamer, [0], [1, 2, 3, 4, 5])
    assert streamer.log == [
        ("", False),
        ("In ", False),
        ("the ", False),
        ("", False),
        ("beginning\n", False),
        ("", False),
        ("God", True),
    ]


def test_chinese_characters_come_at_once():
    streamer = Log()
    _feed(streamer, [6], [7])
    assert [text for text, _ in streamer.log] == ["天", "地", ""]


def test_the_prompt_and_special_tokens_can_be_left_out():
    streamer = Log(skip_prompt=True, skip_special_tokens=True)
    for _ in range(2):  # a streamer can be used again
        _feed(streamer, [0, 1], [2, 3, 8])
    assert "".join(text for text, _ in streamer.log) == " beginning beginning"


def test_text_is_printed(capsys):
    _feed(TextStreamer(Tokenizer()), [0], [1, 2, 3])
    assert capsys.readouterr().out == "In the beginning\n"


def test_another_thread_reads_the_text():
    streamer = TextIteratorStreamer(Tokenizer(), timeout=600)
    thread = threading.Thread(target=_feed, args=(streamer, [0], [1, 2, 3]))
    thread.start()
    assert "".join(streamer) == "In the beginning"
    thread.join()


def test_the_reader_does_not_wait_for_ever():
    with pytest.raises(Empty):
        next(TextIteratorStreamer(Tokenizer(), timeout=0.01))


def test_a_coroutine_reads_the_text():
    async def read():
        streamer = AsyncTextIteratorStreamer(Tokenizer(), skip_prompt=True, timeout=600)
        thread = threading.Thread(target=_feed, args=(streamer, [0], [1, 2, 3]))
        thread.start()
        words = [word async for word in streamer]
        thread.join()
        return words

    assert "".join(asyncio.run(read())) == " the beginning"


def test_a_coroutine_does_not_wait_for_ever():
    async def read():
        await anext(AsyncTextIteratorStreamer(Tokenizer(), timeout=0.01))

    with pytest.raises(TimeoutError):
        asyncio.run(read())


def test_a_streamer_writes_one_text():
    with pytest.raises(InvalidInputError, match="batch of 2"):
        TextStreamer(Tokenizer()).put(np.zeros((2, 3), int))


def test_a_function_gets_each_steps_tokens():
    seen = []
    streamer = as_streamer(seen.append)
    streamer.put(np.array([[1, 2], [3, 4]]))
    streamer.put(np.array([5, 6]))
    streamer.put(np.array([7, 8]))
    streamer.end()
    assert seen == [[5, 6], [7, 8]]


def test_what_cannot_receive_tokens_is_refused():
    assert as_streamer(None) is None
    streamer = BaseStreamer()
    assert as_streamer(streamer) is streamer
    with pytest.raises(InvalidInputError, match="put\\(\\) and end\\(\\)"):
        as_streamer(3)
