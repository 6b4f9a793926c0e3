"""Texts to tokens on the disk."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from gpt2x import EMBEDDED_MODEL, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.corpus import Piece, Place
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.train.data import encoding, prepare, prepare_pieces
from gpt2x.train.data.store import INDEX


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def ids(tokenizer, *texts):
    """The tokens of documents, one after another."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    return [token for row in rows for token in [*row, tokenizer.eos_token_id]]


def files_of(folder):
    """The content of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


TEXTS = ["One line.", "Zwei\nZeilen", " <|endoftext|> three", "x" * 300, "é" * 20, "\n"]


def test_documents_are_joined_by_eos_in_order(tmp_path, tokenizer):
    first = write_lines(tmp_path / "b.jsonl", TEXTS[:3])
    second = tmp_path / "a.txt.gz"
    second.write_bytes(gzip.compress(b"One document\nin a file"))
    corpus = prepare([first, second], tokenizer, tmp_path / "tokens")
    expected = ids(tokenizer, *TEXTS[:3], "One document\nin a file")
    tokens = corpus.read(0, len(corpus))
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected
    assert corpus.num_documents == 4
    assert corpus.document(1).tolist() == ids(tokenizer, TEXTS[1])
    assert list(map(str, corpus.places(0, len(corpus)))) == [
        f"{first}, line 1",
        f"{first}, line 2",
        f"{first}, line 3",
        f"{second}, line 1",
    ]
    assert corpus.skipped == 0


def test_neither_processes_nor_the_fast_engine_change_tokens(tmp_path, tokenizer, monkeypatch):
    file = write_lines(tmp_path / "a.jsonl", TEXTS * 20)

    def files(processes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        options = {"processes": processes, "shard_tokens": 500}
        return files_of(prepare([file], tokenizer, folder, **options).folder)

    one = files(1)
    assert len(one) > 10
    assert files(3) == one
    # As if there were more characters; without gigatoken there is no other engine.
    monkeypatch.setattr(encoding, "_FEW", 0)
    assert files(1) == one


@settings(max_examples=settings().max_examples // 3)
@given(
    documents=st.lists(
        st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4), min_size=1
    ),
    shard_tokens=st.integers(4, 60),
)
def test_a_corpus_is_its_documents(tmp_path_factory, tokenizer, documents, shard_tokens):
    folder = tmp_path_factory.mktemp("tokens")
    pieces = [
        Piece(part, Place("a", number + 1, "record"), ends=index == len(parts) - 1)
        for number, parts in enumerate(documents)
        for index, part in enumerate(parts)
    ]
    corpus = prepare_pieces(
        lambda on_bad: iter(pieces),
        tokenizer,
        folder,
        identity=documents,
        names=["a"],
        processes=1,
        shard_tokens=shard_tokens,
    )
    assert corpus.num_documents == len(documents)
    rows = [
        [token for part in parts for token in tokenizer(part)["input_ids"]] for parts in documents
    ]
    expected = [token for row in rows for token in [*row, tokenizer.eos_token_id]]
    assert corpus.read(0, len(corpus)).tolist() == expected
    middle = len(corpus) // 2
    assert corpus.read(middle, len(corpus)).tolist() == expected[middle:]
    for number, row in enumerate(rows):
        assert corpus.document(number).tolist() == [*row, tokenizer.eos_token_id]
        assert corpus.places(*corpus.span(number)) == [Place("a", number + 1, "record")]


def test_a_tokenizer_that_begins_documents_or_puts_a_space_before_them(tmp_path, tokenizer):
    pieces = [Piece("one", Place("a", 1), False), Piece("\ntwo", Place("a", 2), True)] * 2
    settings = {"add_bos_token": True, "add_prefix_space": True, "bos_token": "q", "eos_token": "z"}
    for kind in (GPT2Tokenizer, GPT2TokenizerFast):
        chosen = kind.from_pretrained(EMBEDDED_MODEL, **settings)
        corpus = prepare_pieces(
            lambda on_bad: iter(pieces),
            chosen,
            tmp_path / kind.__name__,
            identity=None,
            names=["a"],
            processes=1,
        )
        document = [*chosen("one\ntwo")["input_ids"], chosen.eos_token_id]
        assert document[0] == chosen.bos_token_id
        assert corpus.read(0, len(corpus)).tolist() == document * 2


def test_a_corpus_is_made_again_only_when_something_changed(tmp_path, tokenizer):
    file = write_lines(tmp_path / "a.jsonl", TEXTS)
    folder = tmp_path / "tokens"
    first = prepare([file], tokenizer, folder)

    read = []
    assert prepare([file], tokenizer, folder, progress=read.append).folder == first.folder
    assert not read

    file.write_text(file.read_text("utf-8") + '{"text": "more"}\n', encoding="utf-8")
    changed = prepare([file], tokenizer, folder)
    assert changed.num_documents == first.num_documents + 1
    file.rename(tmp_path / "b.jsonl")
    file = tmp_path / "b.jsonl"
    lines = prepare([file], tokenizer, folder, file_format="lines")
    more = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    more.add_tokens(["One"])
    others = [
        changed,
        lines,
        prepare([file], tokenizer, folder),
        prepare([file], more, folder),
    ]
    assert len({first.folder, *(corpus.folder for corpus in others)}) == 5


def test_a_large_vocabulary_has_wide_tokens(tmp_path, tokenizer):
    added = {70_000: AddedToken("<wide>")}
    wide = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL, added_tokens_decoder=added)
    file = write_lines(tmp_path / "a.jsonl", ["a <wide> b"])
    corpus = prepare([file], wide, tmp_path / "tokens")
    assert corpus.read(0, len(corpus)).tolist() == ids(wide, "a <wide> b")
    assert 70_000 in corpus.read(0, len(corpus))
    assert json.loads((corpus.folder / INDEX).read_text("utf-8"))["dtype"] == "<u4"


def test_bad_records_are_named_or_counted_also_when_the_corpus_is_there(tmp_path, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n{"text": 3}\nnothing\n{"text": "fine"}\n', "utf-8")
    folder = tmp_path / "tokens"
    with pytest.raises(DataError, match="jsonl, line 2"):
        prepare([file], tokenizer, folder)

    for _ in range(2):
        errors = []
        corpus = prepare([file], tokenizer, folder, on_bad=errors.append)
        assert corpus.skipped == 2
        assert corpus.read(0, len(corpus)).tolist() == ids(tokenizer, "good", "fine")
        assert [str(error).partition(":")[0] for error in errors] == [
            f"{file}, line 2",
            f"{file}, line 3",
        ]
    with pytest.raises(DataError, match="jsonl, line 2"):
        prepare([file], tokenizer, folder)


def test_standard_input_is_read_anew_and_kept(tmp_path, tokenizer, monkeypatch):
    def given(content):
        stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: content is None)
        monkeypatch.setattr(sys, "stdin", stdin)
        corpus = prepare(["-"], tokenizer, tmp_path / "tokens", file_format="lines", processes=1)
        assert str(corpus.places(0, 1)[0]) == "standard input, line 1"
        return corpus.read(0, len(corpus)).tolist()

    assert given(b"first\n") == ids(tokenizer, "first")
    assert given(b"second\nthird\n") == ids(tokenizer, "second", "third")
    assert given(b"") == ids(tokenizer, "second", "third")  # a run that goes on
    assert given(None) == ids(tokenizer, "second", "third")  # at a terminal


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs os.mkfifo")
def test_a_pipe_is_read_anew_also_at_a_terminal(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    os.mkfifo(pipe := tmp_path / "pipe")
    for text in ("first", "second"):
        writer = threading.Thread(target=pipe.write_text, args=(text,))
        writer.start()
        corpus = prepare([pipe], tokenizer, tmp_path / "tokens", processes=1)
        writer.join()
        assert corpus.read(0, len(corpus)).tolist() == ids(tokenizer, text)


def test_what_cannot_be_prepared(tmp_path, tokenizer):
    empty = tmp_path / "a.txt"
    empty.touch()
    with pytest.raises(DataError, match="no text"):
        prepare([empty], tokenizer, tmp_path / "tokens")
    endless = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    endless.eos_token = None
    with pytest.raises(InvalidInputError, match="no eos_token"):
        prepare([empty], endless, tmp_path / "tokens")
    with pytest.raises(InvalidInputError, match="processes is 0"):
        prepare([empty], tokenizer, tmp_path / "tokens", processes=0)
    corpus = prepare([write_lines(empty, ["a"])], tokenizer, tmp_path / "tokens")
    with pytest.raises(InvalidInputError, match="Tokens 0 to 99"):
        corpus.read(0, 99)
    with pytest.raises(InvalidInputError, match="Document 1 of 1"):
        corpus.document(1)
