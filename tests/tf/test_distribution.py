"""Training on two devices, and in two processes, gives the losses of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt2x.train import train
from support.process_groups import ARGUMENTS, TEXT, finish, half_of, losses, start, tf_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run alone, on two devices, and in two processes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    common = {**ARGUMENTS, "train_file": str(folder / "text.txt"), "backend": "tf"}

    def arguments(name: str, rows: int) -> dict[str, Any]:
        return {**common, "output_dir": str(folder / name), "per_device_train_batch_size": rows}

    train(**arguments("alone", 4))
    devices = start(arguments("devices", 2), {}, devices=2)
    processes = [start(arguments("processes", 2), each) for each in tf_config(2)]
    finish([devices, *processes])
    # One process goes on where the two were in the middle.
    half_of(folder / "processes", folder / "alone again")
    train(**arguments("alone again", 4), resume=True)
    return {name: folder / name for name in ("alone", "devices", "processes", "alone again")}


@pytest.mark.parametrize("name", ["devices", "processes", "alone again"])
def test_the_losses_are_those_of_one_device_alone(name: str, runs: dict[str, Path]):
    expected = losses(runs["alone"])
    assert len(expected) == 21
    assert expected[-1] < expected[0]
    assert losses(runs[name]) == pytest.approx(expected, rel=1e-5)
