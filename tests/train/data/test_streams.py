"""Rows of documents that are read while a model trains."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.corpus import Place
from gpt2x.errors import DataError
from gpt2x.train.data import Blocks, FileStream, StreamedBlocks, prepare, streams


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    lines = [f"Line {number} of these, {'and more ' * (number % 5)}" for number in range(30)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(streams, "_CHARACTERS", 60)


def rows_of(file, tokenizer, size):
    return StreamedBlocks(FileStream([file], file_format="lines"), tokenizer, size)


@pytest.mark.usefixtures("small_batches")
def test_rows_are_those_of_a_prepared_corpus(tmp_path, file, tokenizer):
    corpus = prepare([file], tokenizer, tmp_path, file_format="lines")
    blocks = Blocks(corpus, 16)
    expected = blocks.rows(np.arange(len(blocks)))["input_ids"]
    stream = rows_of(file, tokenizer, 16)
    for number, row in enumerate(islice(stream, len(blocks))):
        assert row["input_ids"].dtype == np.int32
        assert row["input_ids"].tolist() == row["labels"].tolist() == expected[number].tolist()
        assert stream.places() == blocks.places(number)


@pytest.mark.usefixtures("small_batches")
def test_epochs_follow_one_another(file, tokenizer):
    stream = rows_of(file, tokenizer, 50)
    epochs = []
    tokens = []
    for row in islice(stream, 30):
        tokens += row["input_ids"].tolist()
        epochs.append(stream.state()["epoch"])
    texts = file.read_text("utf-8").split("\n")
    rows = tokenizer(texts)["input_ids"]
    once = [token for row in rows for token in [*row, tokenizer.eos_token_id]]
    assert tokens == (once * 10)[: len(tokens)]
    assert epochs[0] == 0
    assert epochs[-1] == len(tokens) // len(once)
    assert Place(str(file), 30) in stream.places()


@pytest.mark.usefixtures("small_batches")
@settings(max_examples=settings().max_examples // 2)
@given(size=st.integers(1, 300), seen=st.integers(0, 12), more=st.integers(1, 8))
def test_a_stream_goes_on_at_the_same_row(file, tokenizer, size, seen, more):
    unbroken = rows_of(file, tokenizer, size)
    for _ in islice(unbroken, seen):
        pass
    unbroken.places()
    state = json.loads(json.dumps(unbroken.state()))
    resumed = rows_of(file, tokenizer, size)
    resumed.restore(state)
    assert resumed.state() == state
    for expected, row in zip(islice(unbroken, more), islice(resumed, more), strict=True):
        assert row["input_ids"].tolist() == expected["input_ids"].tolist()
    assert resumed.places() == unbroken.places()
    assert resumed.state() == unbroken.state()


def test_data_without_text_is_an_error(tmp_path, tokenizer):
    (tmp_path / "a.txt").touch()
    stream = rows_of(tmp_path / "a.txt", tokenizer, 4)
    with pytest.raises(DataError, match="holds no text"):
        next(stream)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"other": 1}', encoding="utf-8")
    stream = StreamedBlocks(FileStream([tmp_path / "a.jsonl"]), tokenizer, 100)
    with pytest.raises(DataError, match="jsonl, line 2"):
        next(stream)
