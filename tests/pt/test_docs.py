"""The examples of the documentation run, one after another as on the page."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from gpt2x import (
    EMBEDDED_MODEL,
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2TokenizerFast,
)

DOCS = Path(__file__).parents[2] / "docs"

#: The folders that examples name, and the class of the model in each.
FOLDERS = {
    "folder/of/a/classifier": GPT2ForSequenceClassification,
    "folder/of/a/tagger": GPT2ForTokenClassification,
    "folder/of/a/reader": GPT2ForQuestionAnswering,
}


def run_examples(page: str) -> dict:
    """Run the examples of a page in one namespace, up to "How it is built"; return it.

    They are its fenced blocks of Python, or, if there are none, its indented blocks.
    """
    text = (DOCS / page).read_text("utf-8").split("\n## How it is built")[0]
    fenced, indented = r"(?<=^```python\n)(?:(?!```).*\n)+", r"(?:^    .*\n|^\n(?=    ))+"
    blocks = list(re.finditer(fenced, text, re.MULTILINE))
    blocks = blocks or list(re.finditer(indented, text, re.MULTILINE))
    assert blocks
    names: dict = {}
    for block in blocks:
        line = text.count("\n", 0, block.start())
        code = "\n" * line + textwrap.dedent(block[0])
        exec(compile(code, f"docs/{page}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_generation(capsys):
    pytest.importorskip("llguidance")
    names = run_examples("generation.md")
    assert names["result"].prediction.all(), "The watermark is found."
    assert "In the beginning God" in capsys.readouterr().out


def test_pipelines(tmp_path):
    (tmp_path / "prompts.txt").write_text("One\nTwo\n", "utf-8")
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 8, "n_layer": 1, "n_head": 2}
    for folder, model_class in FOLDERS.items():
        model_class(GPT2Config(**sizes, n_positions=64)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    assert len(run_examples("pipelines.md")["answer"].model.config.id2label) == 2


def test_training(tmp_path, capsys):
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "a.txt").write_text("Shall I compare thee to a summer's day?\n" * 9)
    run_examples("training.md")
    assert 0 < float(capsys.readouterr().out) < 20


def test_evaluation(tmp_path, capsys):
    (tmp_path / "verses").mkdir()
    (tmp_path / "verses" / "a.txt").write_text("Let there be light.\n", "utf-8")
    run_examples("evaluation.md")
    assert capsys.readouterr().out.count("'bits_per_byte'") == 2
