"""`gpt2x tokenizer`: training, and texts to ids and back."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast, cli

TEXT = "the cat sat on the mat\nthe dog sat on the log\n\n  日本\r\n"


def run(*arguments, **options):
    return CliRunner().invoke(cli.app, ["tokenizer", *map(str, arguments)], **options)


@pytest.fixture
def trained(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.jsonl").write_text('{"code": "def f(x):"}\n{"code": 1}\n')
    return tmp_path


def test_train_saves_a_tokenizer_for_a_new_model(trained):
    folder = trained / "made"
    arguments = ("train", trained / "*.txt", "--vocab-size", 270, "-o", folder)
    done = run(*arguments, "--special-token", "<pad>")
    assert done.exit_code == 0, done.output
    tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    assert len(tokenizer) == 270
    assert tokenizer.model_max_length == 1024
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.convert_tokens_to_ids("<pad>") == 1
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("the")) == 1
    again = run(*arguments)
    assert again.exit_code == 1
    assert "has a tokenizer already" in again.output
    assert run(*arguments, "--overwrite").exit_code == 0
    assert len(GPT2TokenizerFast.from_pretrained(folder).encode("<pad>")) > 1


def test_train_names_a_bad_record_or_leaves_it_out(trained):
    folder = trained / "made"
    arguments = ("train", trained / "b.jsonl", "--vocab-size", 300, "-o", folder)
    done = run(*arguments, "--text-column", "code")
    assert done.exit_code == 1
    assert "b.jsonl, line 2: 'code' is 1, not a string" in done.output
    assert not folder.exists()
    done = run(*arguments, "--text-column", "code", "--skip-bad-records")
    assert done.exit_code == 0
    assert "Bad records left out: 1." in done.output
    assert folder.exists()


def test_train_needs_text(trained):
    (trained / "empty.txt").touch()
    done = run("train", trained / "empty.txt", "--vocab-size", 300, "-o", trained / "made")
    assert done.exit_code == 1
    assert "hold no text" in done.output
    done = run("train", trained / "*.md", "--vocab-size", 300, "-o", trained / "made")
    assert "matches no file" in done.output


def test_encode_and_decode_a_file(trained):
    ids = run("encode", "--file", trained / "a.txt").stdout
    expected = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL).encode(TEXT)
    assert [int(word) for word in ids.split()] == expected
    assert run("encode", input=TEXT.encode()).stdout == ids
    assert run("decode", "--no-newline", input=ids).stdout_bytes == TEXT.encode()
    assert run("decode", *ids.split()).stdout_bytes == TEXT.encode() + b"\n"


def test_encode_texts_lines_and_json():
    assert run("encode", "a b", "c").stdout == run("encode", "--lines", input="a b\nc\n").stdout
    (row,) = run("encode", "--json", "the cät").stdout.splitlines()
    row = json.loads(row)
    assert [len(row[name]) for name in ("tokens", "offsets")] == [len(row["ids"])] * 2
    assert row["offsets"][0] == [0, 3]
    assert run("decode", json.dumps(row["ids"])).stdout == "the cät\n"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("decode", "1", "x"), {}, "whole numbers"),
        (("encode",), {"input": b"\xff"}, "standard input is not UTF-8"),
        (("encode", "a", "--file", "b"), {}, "not both"),
    ],
)
def test_bad_input(arguments, options, words):
    done = run(*arguments, **options)
    assert done.exit_code == 1
    assert words in done.output
