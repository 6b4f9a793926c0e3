"""Documents out of files of each format, and the places that errors name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.corpus import documents, find_files, read_documents, total_size
from gpt2x.errors import DataError, InvalidInputError

TEXTS = ["First.\nStill the first.", "日本語 🙂", 'with "quotes", commas\tand tabs']
RECORDS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(*files, **options):
    return [piece.text for piece in read_documents(files, **options)]


def json_lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def csv_text(delimiter):
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    rows = [f"{number}{delimiter}{text}\r\n" for number, text in enumerate(quoted)]
    return "".join([f"id{delimiter}text\r\n", *rows])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json_lines(RECORDS)),
        ("a.json", json.dumps(RECORDS, indent=2)),
        ("b.json", "\n \n" + json.dumps(RECORDS)),
        ("a.csv", csv_text(",")),
        ("a.tsv", csv_text("\t")),
        ("marked.csv", "\ufeff" + csv_text(",")),
        ("marked.jsonl", "\ufeff" + json_lines(RECORDS)),
    ],
)
def test_records(tmp_path, name, content):
    assert texts(written(tmp_path, name, content)) == TEXTS


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": TEXTS, "id": [0, 1, 2]}), path, row_group_size=2)
    assert texts(path) == TEXTS
    with pytest.raises(DataError, match=r"a\.parquet, record 1: .* 'content', but 'text', 'id'"):
        texts(path, text_column="content")
    with pytest.raises(DataError, match="is not a Parquet file"):
        texts(written(tmp_path, "b.parquet", "text"))


def test_a_text_file_is_one_document_and_lines_are_many(tmp_path):
    path = written(tmp_path, "a.txt", "\ufeffone\r\n\r\n two \n\nthree")
    assert texts(path) == ["one\r\n\r\n two \n\nthree"]
    assert texts(path, file_format="lines") == ["one", " two ", "three"]
    assert texts(written(tmp_path, "empty.txt", "")) == []


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", None)],
)
def test_compressed(tmp_path, suffix, compress):
    if compress is None:
        compress = pytest.importorskip("zstandard").compress
    data = json_lines(RECORDS).encode()
    # Two parts, one after another, are one file to all of these programs.
    path = written(tmp_path, f"a.jsonl{suffix}", compress(data[:50]) + compress(data[50:]))
    assert texts(path) == TEXTS
    damaged = written(tmp_path, f"b.jsonl{suffix}", b"not packed")
    with pytest.raises(DataError, match=f"b.jsonl{suffix}: cannot be unpacked"):
        texts(damaged)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json_lines(RECORDS).encode())))
    assert texts("-", file_format="json") == TEXTS


def test_patterns_are_sorted_and_errors_say_what_is_there(tmp_path):
    for name in ("b.txt", "a.txt", "c.csv"):
        written(tmp_path, name, name)
    pattern = str(tmp_path / "*.txt")
    assert find_files([pattern]) == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert total_size(find_files([pattern])) == 10
    assert total_size(["-"]) is None
    for wrong, words in (
        ([tmp_path / "*.md"], "matches no file"),
        ([tmp_path / "d.txt"], "does not exist"),
        ([tmp_path], "is a folder"),
        (["-", "-"], "given twice"),
        ([], "No files were given"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            find_files(wrong)
    with pytest.raises(InvalidInputError, match="allowed are 'text'"):
        read_documents([pattern], file_format="jsn")


BAD = [
    ("a.jsonl", '{"text": "a"}\n\n{"text": 3}\n{"text": "b"}\n', 3, "is 3, not a string"),
    ("a.jsonl", '{"text": "a"}\n{"text": \n{"text": "b"}\n', 2, "is not JSON"),
    ("a.jsonl", '{"text": "a"}\n["b"]\n{"text": "b"}\n', 2, "must be an object, not list"),
    ("a.jsonl", '{"text": "a"}\n{"txt": "x"}\n{"text": "b"}\n', 2, "has no column 'text'"),
    ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n{"text": "b"}\n', 2, "not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b"}\n', 2, "byte 11 is not UTF-8"),
    ("a.csv", b'id,text\n0,"a\n"\n1,\xff\n2,b\n', 4, "not UTF-8"),
    ("a.csv", "id,text\n0,a\n1\n2,b\n", 3, "has no column 'text'"),
    ("a.txt", b"a\n\xffx\nb", 2, "byte 1 is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "line", "words"), BAD)
def test_a_bad_record_is_named_or_left_out(tmp_path, name, content, line, words):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=f"{name}, line {line}: .*{words}"):
        texts(path)
    errors = []
    left = texts(path, on_bad=errors.append)
    assert [text.strip() for text in left] in (["a", "b"], ["a\nb"])
    assert len(errors) == 1


def test_a_long_field_of_csv(tmp_path):
    assert texts(written(tmp_path, "a.csv", "text\n" + "x" * 200_000)) == ["x" * 200_000]


def test_progress_counts_the_bytes_of_the_files(tmp_path):
    path = written(tmp_path, "a.jsonl.gz", gzip.compress(json_lines(RECORDS * 99).encode()))
    seen = []
    texts(path, progress=seen.append)
    assert sum(seen) == total_size([str(path)])


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@given(st.text(alphabet=" \n\t\u00a0\u3000\x1cab'é日", max_size=60), st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_pieces_have_the_tokens_of_the_document(tmp_path_factory, tokenizer, text, size):
    path = written(tmp_path_factory.mktemp("pieces"), "a.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", size)
        pieces = list(read_documents([path]))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(text)
    for number, piece in enumerate(pieces):
        assert piece.place.number == 1 + "".join(p.text for p in pieces[:number]).count("\n")
    ids = [token for piece in pieces for token in tokenizer.encode(piece.text)]
    assert ids == tokenizer.encode(text)


def test_a_long_record_or_line_is_divided_too(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 8)
    long = "some words, and then more of them"
    path = written(tmp_path, "a.jsonl", json_lines([{"text": "short"}, {"text": long}]))
    lines = written(tmp_path, "a.txt", f"short\n{long}\n")
    for name, options in ((path, {}), (lines, {"file_format": "lines"})):
        first, *pieces = read_documents([name], **options)
        assert (first.text, first.ends) == ("short", True)
        assert "".join(piece.text for piece in pieces) == long
        assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert {piece.place.number for piece in pieces} == {2}
        assert max(len(piece.text) for piece in pieces) <= 8
