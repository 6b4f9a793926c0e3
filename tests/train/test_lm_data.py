"""The data of language modelling, out of files, data sets and streams."""

import json

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.train.arguments import LMArguments
from gpt2x.train.lm_data import LMData, check_sources

VERSES = [f"In the beginning was verse {number}.\n" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.txt").write_text("".join(VERSES), "utf-8")
    lines = [json.dumps({"verse": verse}) for verse in VERSES]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def read(files, tokenizer, on_bad=None, **arguments):
    arguments = LMArguments(output_dir=str(files / "out"), **arguments)
    check_sources(arguments)

    def refuse(error):
        raise error

    return LMData(arguments, tokenizer, 16, on_bad or refuse).read()


def test_files_give_rows_and_a_part_to_evaluate_with(files, tokenizer):
    ids = tokenizer("".join(VERSES))["input_ids"] + [tokenizer.eos_token_id]
    data = read(files, tokenizer, train_file=str(files / "train.txt"))
    assert data.validation is None
    assert data.settings["tokens"] == len(ids)
    rows = data.train.rows(np.arange(len(data.train)))["input_ids"]
    assert [*rows.ravel()] == ids[: rows.size]
    data = read(
        files, tokenizer, train_file=str(files / "train.txt"), validation_split_percentage=25
    )
    assert len(data.train) == pytest.approx(3 * len(data.validation), abs=3)
    data = read(
        files,
        tokenizer,
        train_file=str(files / "train.txt"),
        validation_file=str(files / "lines.jsonl"),
        text_column="verse",
        packing=False,
    )
    assert (len(data.train), len(data.validation)) == (1, 40)


def test_streams_give_the_rows_of_files_in_order(files, tokenizer):
    options = {"train_file": str(files / "lines.jsonl"), "text_column": "verse"}
    rows = read(files, tokenizer, **options).train
    streamed = read(files, tokenizer, **options, streaming=True, max_steps=1)
    for row in rows.rows(np.arange(len(rows)))["input_ids"]:
        np.testing.assert_array_equal(next(streamed.train)["input_ids"], row)


def test_a_data_set_is_found_by_its_name(files, tokenizer, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = files / "verses"
    folder.mkdir()
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text((files / "lines.jsonl").read_text())
    options = {"dataset_name": str(folder), "text_column": "verse"}
    data = read(files, tokenizer, **options)
    assert len(data.train) == len(data.validation) > 10
    divided = read(files, tokenizer, **options, validation_split_percentage=50)
    assert len(divided.validation) == len(data.validation) // 2
    streamed = read(files, tokenizer, **options, streaming=True, max_steps=1)
    first = data.train.rows(np.arange(1))["input_ids"][0]
    np.testing.assert_array_equal(next(streamed.train)["input_ids"], first)


def test_bad_records_are_told(files, tokenizer):
    path = files / "bad.jsonl"
    path.write_text('{"text": "one two three"}\n{"tex\n{"text": "' + "four " * 30 + '"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        read(files, tokenizer, train_file=str(path))
    found = []
    assert len(read(files, tokenizer, found.append, train_file=str(path)).train) > 1
    assert len(found) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "train_file or dataset_name"),
        ({"train_file": "a", "dataset_name": "b"}, "one of them"),
        ({"train_file": "a", "streaming": True}, "max_steps"),
        ({"train_file": "a", "streaming": True, "max_steps": 1, "packing": False}, "packed"),
        (
            {
                "train_file": "a",
                "streaming": True,
                "max_steps": 1,
                "validation_split_percentage": 5,
            },
            "validation_file",
        ),
    ],
)
def test_sources_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        check_sources(LMArguments(output_dir="x", **arguments))
