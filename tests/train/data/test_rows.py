"""Rows out of a corpus."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.corpus import Piece, Place
from gpt2x.errors import InvalidInputError
from gpt2x.train.data import Blocks, Documents, TokenCorpus, prepare, prepare_pieces

TEXTS = ["a", "some more words", "b c d", "e" * 9, "!", "nothing else matters"]


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def documents(tokenizer):
    """The tokens of each document."""
    return [[*row, tokenizer.eos_token_id] for row in tokenizer(TEXTS)["input_ids"]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tokenizer):
    """The documents, in shards that end within them."""
    return prepare_pieces(
        lambda on_bad: (
            Piece(text, Place("a", number + 1), ends=True) for number, text in enumerate(TEXTS)
        ),
        tokenizer,
        tmp_path_factory.mktemp("tokens"),
        identity=TEXTS,
        names=["a"],
        processes=1,
        shard_tokens=3,
    )


@given(st.integers(1, 20))
def test_blocks_are_cut_from_all_tokens(corpus, documents, size):
    tokens = np.concatenate(documents)
    blocks = Blocks(corpus, size)
    assert len(blocks) == len(tokens) // size
    chosen = np.arange(len(blocks))[::-1]
    rows = blocks.rows(chosen)
    assert rows.keys() == {"input_ids", "labels"}
    for values in rows.values():
        assert values.dtype == np.int32
        expected = tokens[: len(blocks) * size].reshape(-1, size)[chosen]
        np.testing.assert_array_equal(values, expected)

    owner = np.repeat(np.arange(len(TEXTS)), [len(row) for row in documents])
    for index in chosen:
        lines = np.unique(owner[index * size : (index + 1) * size]) + 1
        assert blocks.places(index) == [Place("a", int(line)) for line in lines]


def test_documents_are_cut_off_or_padded(corpus, documents):
    rows = Documents(corpus, 4, pad_token_id=7).rows(np.arange(len(TEXTS)))
    for number, tokens in enumerate(documents):
        kept, missing = tokens[:4], 4 - len(tokens[:4])
        assert rows["input_ids"][number].tolist() == kept + [7] * missing
        assert rows["attention_mask"][number].tolist() == [1] * len(kept) + [0] * missing
        assert rows["labels"][number].tolist() == kept + [-100] * missing
    assert all(values.dtype == np.int32 for values in rows.values())
    assert Documents(corpus, 4, 7).places(2) == [Place("a", 3)]


@given(st.floats(5, 95))
def test_a_split_divides_tokens(corpus, documents, percentage):
    tokens = np.concatenate(documents)
    first, second = corpus.split(percentage)
    assert len(second) == round(len(tokens) * percentage / 100)
    assert len(first) + len(second) == len(tokens)
    np.testing.assert_array_equal(first.read(0, len(first)), tokens[: len(first)])
    np.testing.assert_array_equal(second.read(0, len(second)), tokens[len(first) :])
    for part in (first, second):
        parts = [part.document(index) for index in range(part.num_documents)]
        np.testing.assert_array_equal(np.concatenate(parts), part.read(0, len(part)))
    assert second.places(0, len(second))[-1] == Place("a", len(TEXTS))


def test_a_split_of_whole_documents_divides_none(corpus, documents):
    first, second = corpus.split(34, whole_documents=True)
    assert (first.num_documents, second.num_documents) == (4, 2)
    assert second.document(0).tolist() == documents[4]
    assert first.document(3).tolist() == documents[3]
    whole = Documents(second, 50, 0).rows(np.array([1]))["input_ids"][0]
    assert whole[: len(documents[5])].tolist() == documents[5]


def test_what_has_no_rows_is_refused(corpus):
    with pytest.raises(InvalidInputError, match="fewer than the 500 of one row"):
        Blocks(corpus, 500)
    with pytest.raises(InvalidInputError, match="leaves nothing"):
        corpus.split(0.001)
    with pytest.raises(InvalidInputError, match="1% of 6 documents"):
        corpus.split(1, whole_documents=True)


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    page = Path(__file__).parents[3] / "docs" / "data.md"
    example = re.search(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)[1]
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data", "a.jsonl").write_text('{"text": "' + "some words " * 900 + '"}', encoding="utf-8")
    names = {}
    exec(example, names)
    assert names["batch"]["input_ids"].shape == (8, 256)
    assert len(names["validation"]) > 50


def test_joined_corpora_are_one(tmp_path):
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    lines = [json.dumps({"text": f"verse {number} of a song"}) for number in range(60)]
    parts = {"a.jsonl": lines[:25], "b.jsonl": lines[25:40], "c.jsonl": lines[40:]}
    for name, part in parts.items():
        (tmp_path / name).write_text("\n".join(part))

    def corpus(*names):
        files = [tmp_path / name for name in names]
        return prepare(files, tokenizer, tmp_path / "tokens", shard_tokens=40)

    whole, each = corpus(*parts), [corpus(name) for name in parts]
    joined = TokenCorpus.joined([TokenCorpus.joined(each[:2]), each[2]])
    assert (len(joined), joined.num_documents) == (len(whole), 60)
    assert joined.fingerprint() == whole.fingerprint()
    for index in (0, 24, 25, 39, 40, 59):
        np.testing.assert_array_equal(joined.document(index), whole.document(index))
        assert joined.places(*joined.span(index)) == whole.places(*whole.span(index))
    validation = joined.split(25, whole_documents=True)[1]
    assert validation.num_documents == 15
    with pytest.raises(InvalidInputError, match="each of them whole"):
        TokenCorpus.joined([each[0], validation])
    tokenizer.add_tokens("verse")
    with pytest.raises(InvalidInputError, match="different tokenizers"):
        TokenCorpus.joined([each[0], corpus("a.jsonl")])
