"""Several processes that train together: started as users start them, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.data import Blocks

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20

#: Of a run whose losses are compared: a line of the log for each step, and an evaluation.
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


def hide_labels(patch: pytest.MonkeyPatch) -> None:
    """Leave the labels of three rows in four out of a run.

    So some micro-batches of a process have none, and some of all processes.
    """
    whole = Blocks.rows

    def rows(self: Blocks, indices: np.ndarray) -> dict[str, np.ndarray]:
        found = whole(self, indices)
        found["labels"] = np.where(indices[:, None] % 4, IGNORE_INDEX, found["labels"])
        return found

    patch.setattr(Blocks, "rows", rows)


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def torchrun(count: int) -> list[dict[str, str]]:
    """Return the environments of processes that PyTorch joins."""
    (port,) = free_ports(1)
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def tf_config(count: int) -> list[dict[str, str]]:
    """Return the environments of processes that TensorFlow joins."""
    workers = [f"localhost:{port}" for port in free_ports(count)]
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})} for task in tasks
    ]


def jax_processes(count: int) -> list[dict[str, str]]:
    """Return the environments of processes that JAX joins."""
    (port,) = free_ports(1)
    common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [{**common, "JAX_PROCESS_ID": str(number)} for number in range(count)]


def start(
    arguments: Mapping[str, Any], environment: Mapping[str, str], devices: int = 1
) -> subprocess.Popen[str]:
    """Start a process that trains on so many devices of the processor (TensorFlow and JAX)."""
    command = [sys.executable, "-m", "support.distribution", str(devices), json.dumps(arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes that must end well, and return what they have printed."""
    try:
        ended = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [printed for printed, _ in ended]


def train_together(
    arguments: Mapping[str, Any], environments: Sequence[Mapping[str, str]], devices: int = 1
) -> list[str]:
    """Train in a process for each environment; return what they have printed."""
    return finish([start(arguments, environment, devices) for environment in environments])


def half_of(run: Path, folder: Path) -> Path:
    """Copy a run as it stood in the middle, for another one to go on with."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoint-20")
    return folder


def losses(folder: Path) -> list[float]:
    """Return the losses of a run's steps and of its evaluations."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("eval_loss")) for line in lines]
