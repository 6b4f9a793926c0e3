"""What a file may cost: ten times its size and 300 MB of memory, and time in proportion."""

from __future__ import annotations

import os
import signal
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from gpt2x.budget import ALLOWANCE, TIMES, Budget
from gpt2x.checkpoint import open_checkpoint
from gpt2x.errors import CheckpointError
from measuring import Cost, cost

measured = pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")


def read_whole(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        held = [tensor.read() for tensor in checkpoint.values()]
    return f"read {len(held)}"


def cost_of_reading(path: Path) -> Cost:
    """What opening a checkpoint and reading all of it costs; asserts that it is in proportion."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    found = cost(lambda: read_whole(path))
    assert found.megabytes < 300 + 10 * size / 1e6, found
    assert found.seconds < 5 + size / 1e6, found
    return found


def refused(path: Path, message: str = "bytes of memory") -> None:
    said = cost_of_reading(path).said
    assert said.startswith("CheckpointError"), said
    assert message in said


def test_a_budget_grows_with_the_files():
    budget = Budget("folder")
    budget.charge(ALLOWANCE, "tensors")
    budget.admit(10**6)
    budget.charge(TIMES * 10**6 - 10**5, "tensors")
    with pytest.raises(CheckpointError, match=r"'folder' asks for 260,0.*its 1 more.*10 times"):
        budget.charge(10**5, "1 more")


# HDF5


@measured
def test_hdf5_a_chunk_of_a_gigabyte_for_ten_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (2**28,), "compression": "gzip"}
        file.create_dataset("a", (10,), np.float32, **options)
        file["a"].id.write_direct_chunk((0,), zlib.compress(bytes(10**8), 1))
    refused(tmp_path)


@measured
def test_hdf5_a_chunk_that_inflates_beyond_its_size(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (2**20,), "compression": "gzip"}
        file.create_dataset("a", (10,), np.float32, **options)
        file["a"].id.write_direct_chunk((0,), zlib.compress(bytes(33 * 10**7), 1))
    refused(tmp_path, "a chunk of it holds more than")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"chunks": (7,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("values", ["random", "zeros"])
def test_hdf5_stored_in_chunks(tmp_path, options, values):
    h5py = pytest.importorskip("h5py")
    array = np.zeros(50_000, np.float32)
    if values == "random":
        array.view(np.uint8)[:] = np.random.default_rng(0).integers(0, 120, array.nbytes)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("model_weights/a", data=array, **options)
    with open_checkpoint(tmp_path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["a"].read(), array)
        assert len(list(checkpoint["a"].blocks(10_000))) > 1


def test_hdf5_other_filters_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("a", data=np.ones(10, np.float32), compression="lzf")
    with pytest.raises(CheckpointError, match=r"filters \[32000\] of HDF5; read are gzip"):
        open_checkpoint(tmp_path)


def test_hdf5_weights_that_are_a_link_or_no_group(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a"] = np.ones(3, np.float32)
    os.mkfifo(tmp_path / "fifo")  # whoever opens it waits for a writer
    for target in ("other.h5", str(tmp_path / "fifo"), "missing.h5"):
        with h5py.File(path, "w") as file:
            file["model_weights"] = h5py.ExternalLink(target, "/")
        signal.alarm(10)
        with pytest.raises(CheckpointError, match="links to 'model_weights' elsewhere"):
            open_checkpoint(path)
        signal.alarm(0)
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.ones(3, np.float32)
    with pytest.raises(CheckpointError, match="not as a group"):
        open_checkpoint(path)


@measured
def test_hdf5_long_names_above_many_arrays(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("/".join(["x" * 30_000] * 4))
        for number in range(100):
            group[str(number)] = np.ones(1, np.float32)
    refused(tmp_path, "a name of more than 4096 characters")
