"""Training with labels in PyTorch."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gpt2x
from gpt2x import cli
from gpt2x.errors import DataError
from gpt2x.train.log import read
from gpt2x.train.loop import Reporter
from support.contract.labelled import LabelledContract
from support.labelled import classified, lines_of, tiny_model, write_jsonl

pytest.importorskip("seqeval")


def contradicted():
    """Return validation data with which the loss gets worse from the first step on."""
    return classified({"good": "bad", "bad": "good"})


class Terminated(Reporter):
    """Sends this process SIGTERM behind a step."""

    def __init__(self, number):
        self._number = number

    def step(self, progress):
        if progress.step == self._number:
            os.kill(os.getpid(), signal.SIGTERM)


class TestLabelled(LabelledContract):
    backend = "pt"

    def test_numbers_are_learned(self, run, tmp_path):
        results = run("classify", classified({"good": 0.5, "bad": -1}), max_steps=30)
        assert results["eval_mse"] == pytest.approx(results["eval_loss"], rel=1e-4)
        assert results["eval_mse"] < 0.1
        assert results["eval_pearson"] > 0.9
        lines = lines_of(tmp_path / "out" / "predictions.jsonl")
        errors = [line["prediction"] - line["label"] for line in lines]
        assert np.square(errors).mean() == pytest.approx(results["eval_mse"], rel=1e-4)

    def test_several_labels_are_learned(self, run, tmp_path):
        rows = classified({"good": ["good", "any"], "bad": []})
        results = run("classify", rows, max_steps=30)
        assert results["eval_accuracy"] == 1.0
        lines = lines_of(tmp_path / "out" / "predictions.jsonl")
        assert [line["prediction"] for line in lines] == [["any", "good"]] * 4 + [[]] * 4

    def test_a_run_that_was_terminated_goes_on_as_an_unbroken_one(self, run, tmp_path):
        options = {"eval_steps": 3, "logging_steps": 1, "gradient_accumulation_steps": 2}
        options |= {"per_device_train_batch_size": 2, "max_steps": 6}
        options["model_name_or_path"] = tiny_model(tmp_path / "model", resid_pdrop=0.1)
        run("classify", classified(), "whole", **options)
        with pytest.raises(SystemExit):
            run("classify", classified(), "broken", reporter=Terminated(2), **options)
        run("classify", classified(), "broken", resume=True, **options)
        for name in ("model.safetensors", "predictions.jsonl", "config.json", "eval_results.json"):
            whole, broken = (tmp_path / run / name for run in ("whole", "broken"))
            assert broken.read_bytes() == whole.read_bytes(), name
        timed = {"tokens_per_second", "data_wait"}
        logs = [read(tmp_path / name / "log.jsonl") for name in ("whole", "broken")]
        whole, broken = ([{k: v for k, v in x.items() if k not in timed} for x in y] for y in logs)
        assert whole == broken

    def test_an_upload_has_the_model_without_texts(self, run, monkeypatch):
        uploaded = {}

        def push(folder, name, token):
            uploaded[name] = {path.name for path in Path(folder).iterdir()}

        monkeypatch.setattr("gpt2x.train.run.push_folder", push)
        run("classify", classified(), max_steps=1, push_to_hub=True, hub_model_id="me/mood")
        assert {"config.json", "model.safetensors", "tokenizer.json"} < uploaded["me/mood"]
        assert not {"predictions.jsonl", "log.jsonl"} & uploaded["me/mood"]

    def test_the_best_model_predicts(self, run, tmp_path):
        path = write_jsonl(tmp_path / "wrong.jsonl", contradicted())
        options = {"eval_steps": 1, "early_stopping_patience": 3, "validation_file": path}
        results = run("classify", classified(), learning_rate=0.05, **options)
        assert results["step"] < results["steps"] < 12
        classify = gpt2x.pipeline(model=str(tmp_path / "out"), framework=self.backend)
        for line in lines_of(tmp_path / "out" / "predictions.jsonl"):
            scores = {
                found["label"]: found["score"] for found in classify(line["text"], top_k=None)
            }
            assert line["scores"] == pytest.approx(scores, abs=1e-4)

    def test_an_adapter_goes_on_and_is_left_with_its_head_and_labels(self, run, tmp_path, model):
        options = {"lora_r": 4, "lora_target": "all-linear", "logging_steps": 1, "eval_steps": 1}
        options |= {"validation_file": write_jsonl(tmp_path / "wrong.jsonl", contradicted())}
        options |= {"learning_rate": 0.05, "early_stopping_patience": 3}
        whole = run("classify", classified(), "whole", **options)
        assert whole["step"] < whole["steps"]
        with pytest.raises(SystemExit):
            run("classify", classified(), "broken", reporter=Terminated(2), **options)
        run("classify", classified(), "broken", resume=True, **options)
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        for name in ("adapter_model.safetensors", "predictions.jsonl", "config.json"):
            assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
        assert not (whole / "model.safetensors").exists()
        described = json.loads((whole / "adapter_config.json").read_text())
        assert (described["task_type"], described["base_model_name_or_path"]) == ("SEQ_CLS", model)
        flags = [model, str(tmp_path / "merged"), "--merge-adapter", str(whole)]
        assert CliRunner().invoke(cli.app, ["convert", *flags]).exit_code == 0
        for name in ("whole", "merged"):
            where = {"model": str(tmp_path / name), "tokenizer": str(whole)}
            classify = gpt2x.pipeline(framework=self.backend, **where)
            for line in lines_of(whole / "predictions.jsonl"):
                scores = {one["label"]: one["score"] for one in classify(line["text"], top_k=None)}
                assert line["scores"] == pytest.approx(scores, abs=1e-4)

    def test_bad_records_end_a_run_before_it_begins_or_are_counted(self, run, tmp_path):
        rows = [*classified(), {"text": "no label"}]
        with pytest.raises(DataError, match=r"data\.jsonl, line 9: has no column 'label'"):
            run("classify", rows)
        assert not (tmp_path / "out").exists()
        results = run("classify", rows, skip_bad_records=True, max_steps=1)
        assert results["bad_records"] == 2  # in the training and in the validation data
        assert results["texts"] == 8
