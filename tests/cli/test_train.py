"""`gpt2x train`: its flags, and a run in whichever framework is installed."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from gpt2x import GPT2TokenizerFast, backends, cli, pipeline
from gpt2x.train.arguments import LMArguments

needs_framework = pytest.mark.skipif(not backends.installed(), reason="needs a framework")
TEXT = "In the beginning God created the heaven and the earth.\n" * 60
SHAPE = "n_layer=1,n_embd=24,n_head=2,n_positions=32"


def run(*arguments):
    return CliRunner().invoke(cli.app, ["train", "lm", *map(str, arguments)])


@pytest.fixture
def given(monkeypatch):
    """What the command gives to `train`."""
    found = {}

    def train(task, *, reporter, **arguments):
        found.update(arguments, task=task)
        reporter.has_begun = True
        LMArguments.of(arguments)
        return {"train_loss": 1.5, "steps": 3}

    monkeypatch.setattr("gpt2x.train.run.train", train)
    monkeypatch.setattr(backends, "load", lambda *_: None)
    monkeypatch.setattr(backends, "default", lambda: "pt")
    return found


def test_flags_are_taken_as_transformers_scripts_take_them(given):
    done = run(
        *("--train_file", "a.txt", "b.txt", "--validation-file", "c.txt", "--output_dir", "out"),
        *("--per_device_train_batch_size", 4, "--learning-rate=1e-3", "--bf16", "True"),
        *("--packing", "False", "--overwrite-output-dir", "--max_steps", 5),
    )
    assert done.exit_code == 0, done.output
    assert given == {
        "task": "lm",
        "train_file": ["a.txt", "b.txt"],
        "validation_file": ["c.txt"],
        "output_dir": "out",
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "bf16": True,
        "packing": False,
        "overwrite_output_dir": True,
        "max_steps": 5,
    }
    assert re.search(r"train loss +1\.5000", done.stderr)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (SystemExit(143), 143)])
def test_a_stopped_run_says_how_to_go_on(given, monkeypatch, tmp_path, error, code):
    def train(task, *, reporter, **arguments):
        reporter.stopped(tmp_path / "checkpoint-3")
        raise error

    monkeypatch.setattr("gpt2x.train.run.train", train)
    path = tmp_path / "run.yaml"
    path.write_text("overwrite_output_dir: true\n")
    flags = ["--train_file", "a b.txt", "c.txt", "--output_dir=out", "--no-packing"]
    done = run(*flags, "--overwrite-output-dir", "--hub-token", "hf_secret", "--max-steps", 9)
    assert done.exit_code == code
    assert f"{tmp_path / 'checkpoint-3'} is whole" in done.stderr
    assert done.stderr.strip().endswith(
        "gpt2x train lm --output-dir out --train-file 'a b.txt' c.txt --max-steps 9 "
        "--resume --hub-token ... --no-packing"
    )
    done = run(*flags, "--config-file", path)
    assert done.stderr.strip().endswith("--resume --no-overwrite-output-dir --no-packing")


def test_the_line_counts_more_than_the_file(given, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-3\nmax-steps: 9\noutput_dir: out\nresume: true\n")
    done = run("--config-file", path, "--max-steps", 5, "--no-resume")
    assert done.exit_code == 0, done.output
    assert (given["learning_rate"], given["max_steps"], given["resume"]) == (1e-3, 5, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rat", "1"], "No such option.*learning-rat"),
        (["--max-steps", "many"], "parse string as an integer"),
        ([], "output_dir"),
        (["--output-dir", "out", "--lr-scheduler-type", "linaer"], "Did you mean 'linear'"),
    ],
)
def test_what_is_wrong_is_named(given, flags, message):
    done = run(*flags)
    assert done.exit_code != 0
    assert re.search(message, " ".join(done.output.split()))


def test_help_needs_no_framework():
    done = run("--help")
    assert done.exit_code == 0
    assert "--gradient-accumulation" in done.output


@needs_framework
def test_a_new_model_is_trained_and_left_whole(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    flags = [
        *("--train-file", tmp_path / "text.txt", "--output-dir", tmp_path / "out"),
        *("--config-overrides", SHAPE, "--block-size", 16, "--per-device-train-batch-size", 4),
        *("--learning-rate", "1e-2", "--max-steps", 12, "--logging-steps", 4, "--eval-steps", 6),
        *("--validation-split-percentage", 20, "--save-steps", 5, "--sample-prompt", "In the"),
    ]
    done = run(*flags)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert [line["step"] for line in lines if "eval_loss" in line] == [6, 12]
    assert "--- sample ---" in done.stderr
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-12",
    ]
    results = json.loads((out / "eval_results.json").read_text())
    assert results["perplexity"] == pytest.approx(2.718281828 ** results["eval_loss"], rel=1e-6)
    assert json.loads((out / "train_results.json").read_text())["steps"] == 12
    assert "max_steps | 12" in (out / "README.md").read_text()
    write = pipeline("text-generation", model=str(out))
    assert write("In the beginning", max_new_tokens=3)[0]["generated_text"].startswith("In the")
    assert GPT2TokenizerFast.from_pretrained(out)("God")["input_ids"]

    refused = run(*flags)
    assert refused.exit_code == 1
    assert "resume" in refused.stderr
    for changed, message in (
        (["--max-steps", 11], "The checkpoint is at step 12, and max_steps asks for 11 in all"),
        (["--max-steps", -1, "--num-train-epochs", 0.01], "num_train_epochs=0.01 asks for 1 in"),
        (["--lora-r", 2, "--config-overrides", SHAPE], "config_overrides makes a new one"),
        (["--config-overrides", SHAPE.replace("24", "32")], "config_overrides was"),
    ):
        refused = run(*flags, "--resume", *changed)
        assert refused.exit_code == 1
        assert message in " ".join(refused.stderr.split())
    (tmp_path / "text.txt").write_text(TEXT.replace("heaven", "sky"), "utf-8")
    refused = run(*flags, "--resume", "--max-steps", 13)
    assert (refused.exit_code, "data is not the same" in refused.stderr) == (1, True)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    assert run(*flags, "--resume").exit_code == 0  # no step is left
    assert json.loads((out / "train_results.json").read_text())["steps"] == 12
    assert run(*flags, "--resume", "--max-steps", 13).exit_code == 0
    assert json.loads((out / "train_results.json").read_text())["steps"] == 13


@needs_framework
def test_an_earlier_run_goes_when_the_next_one_can_begin(tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT, "utf-8")
    base = ["--output-dir", out, "--config-overrides", SHAPE, "--block-size", 16]
    base += ["--per-device-train-batch-size", 4, "--logging-steps", 1]
    anew = [*base, "--overwrite-output-dir", "--max-steps", 1]
    flags = ["--max-steps", 2, "--validation-split-percentage", 20]
    done = run(*base, *flags, "--train-file", text)
    assert done.exit_code == 0, done.output
    assert f"Wrote the model to {out}" in done.stderr
    # An adapter of an earlier run would be put on the new model.
    (out / "adapter_config.json").write_text("{}")

    assert run(*anew, "--train-file", tmp_path / "none.txt").exit_code == 1
    assert (out / "checkpoint-2").is_dir()
    tokenizer = ["--tokenizer-name", out / "checkpoint-2"]
    refused = run(*anew, *tokenizer, "--train-file", text)
    assert refused.exit_code == 1
    assert "would delete" in refused.stderr
    assert (out / "checkpoint-2").is_dir()

    done = run(*anew, "--train-file", text)
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    lines = (out / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]
    assert not (out / "eval_results.json").exists()
    assert not (out / "adapter_config.json").exists()
    assert (out / "model.safetensors").is_file()


@needs_framework
def test_data_that_does_not_fit_is_refused_before_training(tmp_path):
    (tmp_path / "text.txt").write_text("short", "utf-8")
    base = ["--train-file", tmp_path / "text.txt", "--output-dir", tmp_path / "out"]
    done = run(*base, "--config-overrides", SHAPE, "--block-size", 16)
    assert (done.exit_code, "smaller block_size" in done.stderr) == (1, True), done.stderr
    done = run(*base, "--config-overrides", SHAPE, "--block-size", 99)
    assert "at most 32 tokens" in done.stderr
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"te')
    done = run("--train-file", tmp_path / "bad.jsonl", "--output-dir", tmp_path / "out")
    assert re.search(r"bad\.jsonl.*2", done.stderr)
    assert not [*(tmp_path / "out").glob("checkpoint-*")]


@needs_framework
def test_an_option_of_another_backend_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    others = [["--mesh", "data=2"]] if backends.default() != "flax" else []
    if backends.default() != "pt":
        others += [["--fsdp"], ["--torch-compile"], ["--torch-compile-backend", "inductor"]]
    for other in others:
        done = run("--train-file", tmp_path / "text.txt", "--output-dir", tmp_path / "out", *other)
        assert done.exit_code == 1
        assert f"this run is one of {backends.default()}" in " ".join(done.stderr.split())
