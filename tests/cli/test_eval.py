"""`gpt2x eval`: its tasks, options and errors, in whichever framework is installed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast, backends, cli, evaluation

pytestmark = pytest.mark.skipif(not backends.installed(), reason="needs a framework")

VERSES = "In the beginning God created the heaven and the earth.\n"


def run(*arguments):
    return CliRunner().invoke(cli.app, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    (folder / "verses.txt").write_text(VERSES * 4, "utf-8")
    rows = [{"text": VERSES}, {"text": "one"}, {"text": "To be, or not to be"}]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    row = {"q": "In the beginning", "a": ["God created the heaven", "xylophones"], "right": 0}
    (folder / "choices.json").write_text(json.dumps([row]), "utf-8")
    return folder


def test_perplexity_of_a_file(folder):
    done = run(folder / "verses.txt", "--stride", 16, "--window", 32, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    name = backends.default()
    loader = getattr(backends.load(name), backends.get(name).prefix + "LMHeadModel")
    model = loader.from_pretrained(EMBEDDED_MODEL)
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    expected = evaluation.perplexity(model, tokenizer, [VERSES * 4], stride=16, window=32)
    about = {"task": "perplexity", "model": "embedded", "backend": name}
    assert found == pytest.approx(about | expected)
    assert 0.5 < found["bits_per_byte"] < 2.0  # it has read these verses
    assert found["documents"] == 1
    lines = json.loads(run(folder / "verses.txt", "--file-format", "lines", "--json").stdout)
    assert lines["documents"] == 4


def test_other_tasks(folder):
    done = run(folder / "words.jsonl", "--task", "last-word", "--skip-bad-records")
    assert done.exit_code == 0, done.output
    assert "examples" in done.stdout
    assert done.stdout.split()[-1] == "2"
    assert "left out: 1" in done.stderr
    columns = ("--context-column", "q", "--choices-column", "a", "--label-column", "right")
    done = run(folder / "choices.json", "--task", "multiple-choice", *columns, "--json")
    assert json.loads(done.stdout)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("words.jsonl", ("--task", "last-word"), "line 2: 'text' has no word before its last"),
        ("verses.txt", ("--task", "lambada"), "allowed are 'perplexity', 'last-word'"),
        ("verses.txt", ("--task", "last-word"), "give file_format"),
        ("verses.txt", ("--stride", "256"), "at most 255"),
        ("none.txt", (), "does not exist"),
    ],
)
def test_bad_input(folder, name, arguments, words):
    done = run(folder / name, *arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert done.stdout == ""
