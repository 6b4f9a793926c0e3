"""Training with labels: the same losses and predictions in the three frameworks."""

from __future__ import annotations

import pytest

import gpt2x
from gpt2x.train import train
from gpt2x.train.log import read
from support.labelled import classified, lines_of, tagged, tiny_model, write_jsonl

for _name in ("torch", "tensorflow", "jax", "flax", "seqeval"):
    pytest.importorskip(_name)

OPTIONS = {
    "max_steps": 10,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}


@pytest.mark.parametrize(
    ("task", "rows", "options"),
    [
        ("classify", classified(), {}),
        ("tag", tagged(), {}),
        ("tag", tagged(), {"lora_r": 4, "lora_target": "c_attn,c_proj", "max_steps": 4}),
    ],
    ids=["classify", "tag", "adapter"],
)
def test_losses_and_predictions(tmp_path, task, rows, options):
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    model = tiny_model(tmp_path / "model")
    given = {"train_file": path, "validation_file": path, "model_name_or_path": model}
    given |= OPTIONS | options
    losses, evaluated, predicted, answers = {}, {}, {}, {}
    for backend in ("pt", "tf", "flax"):
        out = tmp_path / backend
        train(task, backend=backend, output_dir=str(out), **given)
        log = read(out / "log.jsonl")
        losses[backend] = [line["loss"] for line in log if "loss" in line]
        evaluated[backend] = log[-1]
        predicted[backend] = lines_of(out / "predictions.jsonl")
        if "lora_r" in options:  # its folder names the model, and has the labels
            tag = gpt2x.pipeline(model=str(out), framework=backend, ignore_labels=[])
            tags = tag(" ".join(rows[0]["tokens"]))
            answers[backend] = {(one["word"], one["entity"]): one["score"] for one in tags}
    assert len(losses["pt"]) == given["max_steps"]
    assert {entity for _, entity in answers.get("pt", {})} <= {"O", "B-PER", "B-LOC", "I-LOC"}
    assert losses["pt"][-1] < losses["pt"][0]
    for backend in ("tf", "flax"):
        assert losses[backend] == pytest.approx(losses["pt"], rel=1e-3), backend
        assert evaluated[backend] == pytest.approx(evaluated["pt"], rel=1e-3), backend
        assert answers.get(backend) == pytest.approx(answers.get("pt"), abs=1e-3), backend
        for mine, theirs in zip(predicted[backend], predicted["pt"], strict=True):
            scores = [line.pop("scores", {}) for line in (mine, dict(theirs))]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
            assert mine == {k: v for k, v in theirs.items() if k != "scores"}
