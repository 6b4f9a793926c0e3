"""The recipes of `examples/` run, on tiny data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2x import pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
VERSE = "In the beginning God created the heaven and the earth."
SHAPE = "n_layer=1,n_embd=16,n_head=2,n_positions=64"
FEW = [
    "--max-steps",
    "2",
    "--per-device-train-batch-size",
    "2",
    "--gradient-accumulation-steps",
    "1",
]


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("torch")
    command = tmp_path / "bin" / "gpt2x"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpt2x "$@"\n')
    command.chmod(0o755)
    (tmp_path / "text.txt").write_text(f"{VERSE}\n" * 200)
    records = [{"text": VERSE[n:], "label": "ab"[n % 2], "content": VERSE} for n in range(12)]
    words = [{"tokens": ["Adam", "eats"], "tags": ["B-PER", "O"]}] * 4
    for name, rows in (("records.jsonl", records), ("words.jsonl", words)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))

    def run(name, *arguments, **environment):
        path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", EXAMPLES / name, *arguments, *FEW],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": path,
                "PYTHONPATH": os.pathsep.join(sys.path),
                **environment,
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_style(run):
    assert run("style.sh", "text.txt", "out", "--block-size", "32").startswith("I was")


def test_language(run):
    printed = run("language.sh", "text.txt", "out", VOCAB_SIZE="300", SHAPE=SHAPE)
    assert "bits per byte" in printed


def test_code(run):
    printed = run("code.sh", "records.jsonl", "out", VOCAB_SIZE="300", SHAPE=SHAPE)
    assert "def " in printed


def test_stable(run, tmp_path):
    run("stable.sh", "text.txt", "out", SHAPE=SHAPE, WARMUP_STEPS="1")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["reorder_and_upcast_attn"]
    assert config["scale_attn_by_inverse_layer_idx"]


def test_classify(run, tmp_path):
    printed = run("classify.sh", "records.jsonl", "records.jsonl", "out")
    assert "accuracy" in printed
    assert pipeline("text-classification", str(tmp_path / "out"))(VERSE)[0]["label"] in ("a", "b")


def test_tag(run):
    assert "f1" in run("tag.sh", "words.jsonl", "words.jsonl", "out")


def test_every_recipe_is_listed():
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for path in EXAMPLES.glob("*.sh"):
        assert f"({path.name})" in listed
