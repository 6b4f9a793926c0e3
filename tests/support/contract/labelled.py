"""What training with labels does in every backend: `gpt2x train classify` and `tag`.

A backend's `tests/.../test_labelled.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gpt2x
from gpt2x.train import train
from gpt2x.train.log import read
from support.labelled import classified, lines_of, tagged, tiny_model, write_jsonl

OPTIONS = {"learning_rate": 0.02, "max_steps": 12, "per_device_train_batch_size": 4, "seed": 1}


class LabelledContract:
    """Runs on tiny data; what more there is to them, PyTorch's tests hold."""

    backend: str

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        return tiny_model(tmp_path_factory.mktemp("models") / "tiny")

    @pytest.fixture
    def run(self, model: str, tmp_path: Path) -> Any:
        """A function that trains on records, and measures with the same ones."""

        def run(task: str, rows: list[dict[str, Any]], name: str = "out", **options: Any) -> Any:
            path = write_jsonl(tmp_path / "data.jsonl", rows)
            given = {"train_file": path, "validation_file": path, "model_name_or_path": model}
            given |= {"output_dir": str(tmp_path / name), "backend": self.backend, **OPTIONS}
            return train(task, **{**given, **options})

        return run

    def test_one_label_is_learned_and_predicted(self, run, tmp_path):
        results = run("classify", classified(), max_steps=30)
        assert results["eval_accuracy"] == results["eval_f1"] == 1.0
        assert results["eval_loss"] < 0.1 < results["train_loss"]
        evaluated = json.loads((tmp_path / "out" / "eval_results.json").read_text())
        assert evaluated == read(tmp_path / "out" / "log.jsonl")[-1]
        lines = lines_of(tmp_path / "out" / "predictions.jsonl")
        assert [line["prediction"] for line in lines] == [line["label"] for line in classified()]
        classify = gpt2x.pipeline(model=str(tmp_path / "out"), framework=self.backend)
        assert classify.task == "text-classification"
        # In one batch, so that padding counts.
        answers = classify([row["text"] for row in classified()], batch_size=8)
        for answer, line in zip(answers, lines, strict=True):
            assert answer["label"] == line["prediction"]
            assert answer["score"] == pytest.approx(line["scores"][answer["label"]], abs=1e-4)

    def test_tags_are_learned_and_predicted(self, run, tmp_path):
        results = run("tag", tagged(), max_steps=30)
        assert results["eval_accuracy"] == results["eval_f1"] == results["eval_precision"] == 1.0
        lines = lines_of(tmp_path / "out" / "predictions.jsonl")
        assert [line["predictions"] for line in lines] == [row["ner_tags"] for row in tagged()]
        tag = gpt2x.pipeline(model=str(tmp_path / "out"), framework=self.backend)
        assert tag.task == "token-classification"
        entities = tag(" ".join(tagged()[2]["tokens"]), aggregation_strategy="first")
        assert [(entity["entity_group"], entity["word"].strip()) for entity in entities] == [
            ("LOC", "Rome")
        ]
