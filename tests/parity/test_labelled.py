"""Training with labels: the same losses and predictions in the three frameworks."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(("task", "rows"), [("classify", classified()), ("tag", tagged())])
def test_losses_and_predictions(tmp_path, task, rows):
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    model = tiny_model(tmp_path / "model")
    given = {"train_file": path, "validation_file": path, "model_name_or_path": model, **OPTIONS}
    losses, evaluated, predicted = {}, {}, {}
    for backend in ("pt", "tf", "flax"):
        out = tmp_path / backend
        train(task, backend=backend, output_dir=str(out), **given)
        log = read(out / "log.jsonl")
        losses[backend] = [line["loss"] for line in log if "loss" in line]
        evaluated[backend] = log[-1]
        predicted[backend] = lines_of(out / "predictions.jsonl")
    assert len(losses["pt"]) == 10
    assert losses["pt"][-1] < losses["pt"][0]
    for backend in ("tf", "flax"):
        assert losses[backend] == pytest.approx(losses["pt"], rel=1e-3), backend
        assert evaluated[backend] == pytest.approx(evaluated["pt"], rel=1e-3), backend
        for mine, theirs in zip(predicted[backend], predicted["pt"], strict=True):
            scores = [line.pop("scores", {}) for line in (mine, dict(theirs))]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
            assert mine == {k: v for k, v in theirs.items() if k != "scores"}
