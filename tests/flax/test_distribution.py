"""Training over a mesh of devices, in one process and in several, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.flax.distribution import Distribution
from gpt2x.train import train
from support.process_groups import (
    ARGUMENTS,
    TEXT,
    half_of,
    hide_labels,
    jax_processes,
    losses,
    train_together,
)

SCRIPT = Path(__file__).parents[1] / "support" / "mesh_losses.py"


def losses_of_engine(mesh, before="none", after="none"):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, SCRIPT, mesh, before, after],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_losses_are_those_of_one_device_and_checkpoints_go_on_over_any(tmp_path):
    devices, alone = losses_of_engine("none", after=tmp_path / "alone")
    assert devices == 1
    devices, found = losses_of_engine("data=2,fsdp=2", after=tmp_path / "divided")
    assert devices == 4
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    devices, found = losses_of_engine("fsdp=2", before=tmp_path / "alone")
    assert devices == 2
    np.testing.assert_allclose(found, alone[10:], rtol=1e-5)
    _, found = losses_of_engine("none", before=tmp_path / "divided")
    np.testing.assert_allclose(found, alone[10:], rtol=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folders of a run alone and of some in two processes, and what these have printed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)

    def arguments(name: str, rows: int) -> dict[str, Any]:
        places = {"train_file": str(folder / "text.txt"), "output_dir": str(folder / name)}
        sizes = {"per_device_train_batch_size": rows, "per_device_eval_batch_size": 3}
        return {**ARGUMENTS, **places, **sizes, "backend": "flax"}

    def together(name: str, rows: int, devices: int, **more: Any) -> list[str]:
        every = {**arguments(name, rows), **more, "hide_labels": True}
        return train_together(every, jax_processes(2), devices)

    with pytest.MonkeyPatch.context() as patch:
        hide_labels(patch)
        train(**arguments("alone", 4))
        mesh = {"mesh": "data=2,fsdp=2", "sample_prompt": "It"}
        printed = {"divided": together("divided", 1, 2, **mesh)}
        half_of(folder / "divided", folder / "alone behind divided")
        train(**arguments("alone behind divided", 4), resume=True)
    half_of(folder / "alone", folder / "two behind alone")
    together("two behind alone", 2, 1, resume=True)
    return folder, printed


@pytest.mark.parametrize("name", ["divided", "alone behind divided", "two behind alone"])
def test_the_losses_are_those_of_one_process(name: str, runs):
    folder, _ = runs
    expected = losses(folder / "alone")
    assert len(expected) == 21
    assert expected[-1] < expected[0]
    assert losses(folder / name) == pytest.approx(expected, rel=1e-5)


def test_the_first_process_alone_shows_a_sample(runs):
    _, printed = runs
    first, second = printed["divided"]
    assert 'SAMPLE "It' in first
    assert "SAMPLE" not in second


def test_processes_that_do_not_say_which_they_are_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInputError, match="JAX_NUM_PROCESSES to their number"):
        Distribution(None)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(InvalidInputError, match="JAX_NUM_PROCESSES to their number"):
        Distribution(None)


@pytest.mark.parametrize("mesh", ["data", "data=0", "model=2", "data=2;fsdp=2"])
def test_a_mesh_that_cannot_be_read_is_refused(mesh):
    with pytest.raises(InvalidInputError, match="such as data=2,fsdp=2"):
        Distribution(mesh)


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(InvalidInputError, match=r"needs 64 devices; there (is|are) \d"):
        Distribution("data=32,fsdp=2")
