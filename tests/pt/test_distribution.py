"""Training in two processes, by DDP and by FSDP2, gives the losses of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.train import train
from support.process_groups import (
    ARGUMENTS,
    TEXT,
    half_of,
    hide_labels,
    losses,
    torchrun,
    train_together,
)

MODEL = (
    "n_layer=2,n_embd=16,n_head=2,n_positions=16,n_inner=24,"
    "resid_pdrop=0.1,embd_pdrop=0.1,attn_pdrop=0.0"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a run alone, of one by each way, and of some that went on by another."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)

    def arguments(name: str, rows: int, **more: Any) -> dict[str, Any]:
        places = {"train_file": str(folder / "text.txt"), "output_dir": str(folder / name)}
        sizes = {"per_device_train_batch_size": rows, "backend": "pt"}
        return {**ARGUMENTS, "config_overrides": MODEL, **places, **sizes, **more}

    def together(name: str, **more: Any) -> None:
        printed = train_together(arguments(name, 2, **more), torchrun(2))
        (folder / name / "printed").write_text(json.dumps(printed))

    train(**arguments("alone", 4))
    together("ddp")
    together("fsdp", fsdp=True)
    half_of(folder / "fsdp", folder / "alone behind fsdp")
    train(**arguments("alone behind fsdp", 4), resume=True)
    half_of(folder / "ddp", folder / "fsdp behind ddp")
    together("fsdp behind ddp", fsdp=True, resume=True)
    half_of(folder / "fsdp", folder / "compiled ddp behind fsdp")
    together("compiled ddp behind fsdp", resume=True, torch_compile_backend="aot_eager")
    adapter = {
        "config_overrides": None,
        "model_name_or_path": str(folder / "alone"),
        "lora_r": 4,
        "sample_prompt": "It",
    }
    with pytest.MonkeyPatch.context() as patch:
        hide_labels(patch)
        train(**arguments("adapter alone", 4, **adapter))
    together("adapter ddp", **adapter, hide_labels=True)
    together("adapter fsdp", **adapter, hide_labels=True, fsdp=True)
    return folder


NAMES = ["ddp", "fsdp", "alone behind fsdp", "fsdp behind ddp", "compiled ddp behind fsdp"]


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_are_those_of_one_process(name: str, runs: Path):
    expected = losses(runs / "alone")
    assert len(expected) == 21
    assert expected[-1] < expected[0]
    assert losses(runs / name) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["adapter ddp", "adapter fsdp"])
def test_an_adapter_and_rows_without_labels_are_those_of_one_process(name: str, runs: Path):
    expected = losses(runs / "adapter alone")
    assert len(expected) == 21
    assert losses(runs / name) == pytest.approx(expected, rel=1e-5)
    assert (runs / name / "adapter_model.safetensors").is_file()


def test_the_first_process_shows_what_all_have_sampled(runs: Path):
    replicated, divided = (
        json.loads((runs / f"adapter {way}" / "printed").read_text()) for way in ("ddp", "fsdp")
    )
    assert 'SAMPLE "It' in replicated[0]
    assert "SAMPLE" not in replicated[1]
    assert divided == replicated


def test_a_classifier_is_that_of_one_process(runs: Path, tmp_path: Path):
    texts = [{"text": f"{word} {n}", "label": word} for n in range(9) for word in ("good", "bad")]
    lines = "".join(json.dumps(each) + "\n" for each in texts)
    (tmp_path / "texts.jsonl").write_text(lines)

    def arguments(name: str, rows: int) -> dict[str, Any]:
        files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "texts.jsonl"))
        sizes = {"per_device_train_batch_size": rows, "per_device_eval_batch_size": 5}
        steps = {"max_steps": 4, "eval_steps": 2, "logging_steps": 1, "adam_epsilon": 1e-5}
        steps["same_dropout"] = True
        places = {"output_dir": str(tmp_path / name), "backend": "pt"}
        places["model_name_or_path"] = str(runs / "alone")
        return {**files, **sizes, **steps, **places}

    train("classify", **arguments("alone", 4))
    train_together({**arguments("two", 2), "task": "classify"}, torchrun(2))
    alone, two = tmp_path / "alone", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)
    results = [json.loads((path / "eval_results.json").read_text()) for path in (alone, two)]
    assert results[0].keys() == results[1].keys()
    assert "eval_accuracy" in results[0]
    found = [
        [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]
        for path in (alone, two)
    ]
    assert len(found[0]) == len(texts)
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == (pytest.approx(value, rel=1e-4) if name == "score" else value)


def test_fsdp_needs_processes(tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(InvalidInputError, match="torchrun"):
        train(
            **ARGUMENTS,
            backend="pt",
            train_file=str(tmp_path / "text.txt"),
            output_dir=str(tmp_path / "out"),
            fsdp=True,
        )
