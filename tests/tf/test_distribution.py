"""Training on two devices, and in two processes, gives the losses of one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2x.train import train

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20
ARGUMENTS = {
    "config_overrides": "n_layer=1,n_embd=16,n_head=2,n_positions=16,n_inner=16,"
    "resid_pdrop=0.1,embd_pdrop=0.1,attn_pdrop=0.1",
    "same_dropout": True,
    "block_size": 16,
    "validation_split_percentage": 10,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    # A smaller one would make much of rounding where gradients are nearly 0.
    "adam_epsilon": 1e-5,
    "max_steps": 20,
    "logging_steps": 1,
    "eval_steps": 20,
    "save_steps": 10,
    "preprocessing_num_workers": 1,
}


def start(devices: int, arguments: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.distribution", str(devices), json.dumps(arguments)]
    paths = os.pathsep.join(sys.path)
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("eval_loss")) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run alone, on two devices, and in two processes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    common = {**ARGUMENTS, "train_file": str(folder / "text.txt")}

    def arguments(name: str, rows: int) -> dict[str, Any]:
        return {**common, "output_dir": str(folder / name), "per_device_train_batch_size": rows}

    train(backend="tf", **arguments("alone", 4))
    workers = [f"localhost:{port}" for port in free_ports(2)]
    processes = [start(2, arguments("devices", 2))]
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(start(1, arguments("processes", 2), TF_CONFIG=json.dumps(config)))
    for process in processes:
        finish(process)
    # One process goes on where the two were in the middle.
    shutil.copytree(folder / "processes", folder / "alone again")
    shutil.rmtree(folder / "alone again" / "checkpoint-20")
    train(backend="tf", resume=True, **arguments("alone again", 4))
    return {name: folder / name for name in ("alone", "devices", "processes", "alone again")}


@pytest.mark.parametrize("name", ["devices", "processes", "alone again"])
def test_the_losses_are_those_of_one_device_alone(name: str, runs: dict[str, Path]):
    expected = losses(runs["alone"])
    assert len(expected) == 21
    assert expected[-1] < expected[0]
    assert losses(runs[name]) == pytest.approx(expected, rel=1e-5)
