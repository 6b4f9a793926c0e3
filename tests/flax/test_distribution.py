"""Training over a mesh of devices, in processes that have four on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.flax.distribution import Distribution

SCRIPT = Path(__file__).parents[1] / "support" / "mesh_losses.py"


def losses(mesh, before="none", after="none"):
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
    devices, alone = losses("none", after=tmp_path / "alone")
    assert devices == 1
    devices, found = losses("data=2,fsdp=2", after=tmp_path / "divided")
    assert devices == 4
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    devices, found = losses("fsdp=2", before=tmp_path / "alone")
    assert devices == 2
    np.testing.assert_allclose(found, alone[10:], rtol=1e-5)
    _, found = losses("none", before=tmp_path / "divided")
    np.testing.assert_allclose(found, alone[10:], rtol=1e-5)


@pytest.mark.parametrize("mesh", ["data", "data=0", "model=2", "data=2;fsdp=2"])
def test_a_mesh_that_cannot_be_read_is_refused(mesh):
    with pytest.raises(InvalidInputError, match="such as data=2,fsdp=2"):
        Distribution(mesh)


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(InvalidInputError, match=r"needs 64 devices; there (is|are) \d"):
        Distribution("data=32,fsdp=2")
