"""Training in two processes, by DDP and by FSDP2, gives the losses of one."""

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

from gpt2x.errors import InvalidInputError
from gpt2x.train import train

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20
ARGUMENTS = {
    "config_overrides": "n_layer=2,n_embd=16,n_head=2,n_positions=16,n_inner=24,"
    "resid_pdrop=0.1,embd_pdrop=0.1,attn_pdrop=0.0",
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
    "backend": "pt",
}
PROCESS = "import json, sys\nfrom gpt2x.train import train\ntrain(**json.loads(sys.argv[1]))"


def train_together(**arguments: Any) -> None:
    """Train in two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    paths = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps(arguments)],
            env={**os.environ, **common, "PYTHONPATH": paths, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("eval_loss")) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a run alone, of one by each way, and of some that went on by another."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)

    def arguments(name: str, rows: int) -> dict[str, Any]:
        places = {"train_file": str(folder / "text.txt"), "output_dir": str(folder / name)}
        return {**ARGUMENTS, **places, "per_device_train_batch_size": rows}

    def middle(name: str, of: str) -> None:
        """Let a run go on where another was in the middle."""
        shutil.copytree(folder / of, folder / name)
        shutil.rmtree(folder / name / "checkpoint-20")

    train(**arguments("alone", 4))
    train_together(**arguments("ddp", 2))
    train_together(**arguments("fsdp", 2), fsdp=True)
    middle("alone behind fsdp", "fsdp")
    train(**arguments("alone behind fsdp", 4), resume=True)
    middle("fsdp behind ddp", "ddp")
    train_together(**arguments("fsdp behind ddp", 2), fsdp=True, resume=True)
    middle("compiled ddp behind fsdp", "fsdp")
    compiled = {"resume": True, "torch_compile_backend": "aot_eager"}
    train_together(**arguments("compiled ddp behind fsdp", 2), **compiled)
    return folder


NAMES = ["ddp", "fsdp", "alone behind fsdp", "fsdp behind ddp", "compiled ddp behind fsdp"]


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_are_those_of_one_process(name: str, runs: Path):
    expected = losses(runs / "alone")
    assert len(expected) == 21
    assert expected[-1] < expected[0]
    assert losses(runs / name) == pytest.approx(expected, rel=1e-5)


def test_fsdp_needs_processes(tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(InvalidInputError, match="torchrun"):
        train(
            **ARGUMENTS,
            train_file=str(tmp_path / "text.txt"),
            output_dir=str(tmp_path / "out"),
            fsdp=True,
        )
