"""`gpt2x train classify` and `gpt2x train tag`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gpt2x import backends, cli
from support.labelled import classified, lines_of, tagged, tiny_model, write_jsonl

pytest.importorskip("seqeval")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.mark.skipif(not backends.installed(), reason="needs a framework")
@pytest.mark.parametrize(
    ("task", "rows", "flags", "score"),
    [
        ("classify", classified(), ["--problem_type", "single_label_classification"], "accuracy"),
        ("tag", tagged(), ["--label_all_tokens", "--max-seq-length", 12], "truncated words"),
    ],
)
def test_a_model_is_trained_and_predicts(tmp_path, task, rows, flags, score):
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    out = tmp_path / "out"
    done = run(
        *(task, "--train_file", path, "--validation-file", path, "--test-file", path, path),
        *("--model-name-or-path", tiny_model(tmp_path / "model"), "--output-dir", out),
        *("--max-steps", 1, *flags),
    )
    assert done.exit_code == 0, done.output
    assert f"eval {score}" in done.stderr
    scores = json.loads((out / "test_results.json").read_text("utf-8"))
    evaluated = json.loads((out / "eval_results.json").read_text("utf-8"))
    assert scores["test_accuracy"] == evaluated["eval_accuracy"]
    assert len(lines_of(out / "predictions.jsonl")) == 2 * len(rows)
    architecture = {"classify": "Sequence", "tag": "Token"}[task]
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["architectures"] == [f"GPT2For{architecture}Classification"]


def test_help_names_the_flags_of_the_task():
    assert "--text-pair-column" in run("classify", "--help").output
    assert "--label-all-tokens" in run("tag", "--help").output
