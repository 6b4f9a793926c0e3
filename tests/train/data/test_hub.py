"""Data sets of the library `datasets`."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.corpus import Place
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.train.data import (
    DatasetStream,
    StreamedBlocks,
    load_named,
    prepare_dataset,
    streams,
)

library = pytest.importorskip("datasets")

SPLITS = {
    "train": [f"Text {number}, {'long ' * (number % 4)}" for number in range(20)],
    "validation": ["One", "two"],
}


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of two splits in two formats; nothing is asked of the hub."""
    folder = tmp_path_factory.mktemp("set")
    library.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(library.config, "HF_HUB_OFFLINE", True)
        for split, texts in SPLITS.items():
            lines = [json.dumps({"text": text, "other": 1}) + "\n" for text in texts]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        yield str(folder)


def ids(tokenizer, texts):
    rows = tokenizer(texts)["input_ids"]
    return [token for row in rows for token in [*row, tokenizer.eos_token_id]]


def test_a_data_set_is_prepared_and_found_again(tmp_path, folder, tokenizer):
    corpora = {}
    for split, dataset in load_named(folder).items():
        corpus = prepare_dataset(dataset, folder, tokenizer, tmp_path, processes=1)
        assert corpus.read(0, len(corpus)).tolist() == ids(tokenizer, SPLITS[split])
        assert corpus.places(len(corpus) - 1, len(corpus)) == [
            Place(folder, len(SPLITS[split]), "record")
        ]
        corpora[split] = corpus.folder
    assert len(set(corpora.values())) == 2
    again = prepare_dataset(load_named(folder)["train"], folder, tokenizer, tmp_path, processes=1)
    assert again.folder == corpora["train"]


def test_a_stream_goes_on_at_the_same_row(folder, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "_CHARACTERS", 50)

    def rows():
        dataset = load_named(folder, streaming=True)["train"]
        return StreamedBlocks(DatasetStream(dataset, folder), tokenizer, 7)

    once = ids(tokenizer, SPLITS["train"])
    unbroken, count = rows(), 2 * len(once) // 7
    states, expected = [], []
    for _ in range(count):
        states.append(json.loads(json.dumps(unbroken.state())))
        expected.append(next(unbroken)["input_ids"].tolist())
        last = unbroken.places()
    assert [token for row in expected for token in row] == (once * 2)[: 7 * count]
    assert last[-1] == Place(folder, len(SPLITS["train"]), "record")
    for start in (3, count // 2 + 1):
        resumed = rows()
        resumed.restore(states[start])
        following = [row["input_ids"].tolist() for row in islice(resumed, count - start)]
        assert following == expected[start:]
        assert resumed.state() == unbroken.state()


def test_what_cannot_be_used_is_named(tmp_path, folder, tokenizer):
    with pytest.raises(InvalidInputError, match=r"'no/such' cannot be loaded"):
        load_named("no/such")
    with pytest.raises(InvalidInputError, match=r"'other' not found"):
        load_named(folder, "other")
    dataset = load_named(folder)["train"]
    with pytest.raises(DataError, match=r"record 1: has no column 'content', but 'text', 'other'"):
        prepare_dataset(dataset, folder, tokenizer, tmp_path, text_column="content")
    (tmp_path / "test.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"no split 'train', but 'test'"):
        load_named(str(tmp_path))
