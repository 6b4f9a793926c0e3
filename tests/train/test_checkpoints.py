"""Checkpoints: whole or not at all, the newest kept, damaged ones refused."""

import errno
import json

import numpy as np
import pytest

from gpt2x.errors import CheckpointError
from gpt2x.train import checkpoints
from gpt2x.train.checkpoints import Progress

MOMENTS = {"exp_avg.w": np.arange(6, dtype=np.float32).reshape(2, 3).T}


def save(folder, step, **fields):
    def write(path):
        (path / "model").write_text("weights")

    return checkpoints.save(folder, Progress(step=step, **fields), MOMENTS, write)


def test_what_is_saved_is_read(tmp_path):
    path = save(tmp_path, 7, tokens=12, feed={"rows": 5}, best_loss=1.5, settings={"seed": 1})
    assert checkpoints.found(tmp_path) == {7: path}
    progress = checkpoints.read_progress(path)
    assert progress == Progress(7, 12, feed={"rows": 5}, best_loss=1.5, settings={"seed": 1})
    np.testing.assert_array_equal(checkpoints.read_moments(path)["exp_avg.w"], MOMENTS["exp_avg.w"])


def test_they_are_found_in_the_order_of_their_steps(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-200").mkdir()  # of another program
    assert [*checkpoints.found(tmp_path)] == [9, 10, 100]
    assert checkpoints.found(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [(1, 0, [4]), (2, 0, [3, 4]), (None, 0, [1, 2, 3, 4]), (1, 2, [2, 4])],
)
def test_the_newest_are_kept(tmp_path, limit, keep, left):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    checkpoints.prune(tmp_path, limit, keep)
    assert [*checkpoints.found(tmp_path)] == left
    assert len([*tmp_path.iterdir()]) == len(left)


def test_a_full_disk_leaves_the_last_one_whole(tmp_path):
    save(tmp_path, 1)

    def full(folder):
        (folder / "model").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"nothing was saved to .*checkpoint-2"):
        checkpoints.save(tmp_path, Progress(step=2), MOMENTS, full)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert checkpoints.read_progress(tmp_path / "checkpoint-1").step == 1


def test_damaged_ones_are_refused(tmp_path):
    path = save(tmp_path, 1)
    state = path / checkpoints.STATE
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"other": 1}))
    with pytest.raises(CheckpointError, match="of this version"):
        checkpoints.read_progress(path)
    state.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        checkpoints.read_progress(path)
    (path / checkpoints.OPTIMIZER).write_bytes(b"x" * 20)
    with pytest.raises(CheckpointError, match="optimizer"):
        checkpoints.read_moments(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "1"},
        {"step": 2},
        {"step": True},
        {"tokens": None},
        {"tokens": -1},
        {"loss_sum": "x"},
        {"seconds": None},
        {"best_loss": "low"},
        {"feed": [1]},
        {"feed": {"rows": "x"}},
        {"feed": {"rows": -5}},
        {"settings": []},
    ],
)
def test_a_state_that_no_run_has_is_refused(tmp_path, wrong):
    path = save(tmp_path, 1)
    state = path / checkpoints.STATE
    state.write_text(json.dumps(json.loads(state.read_text()) | wrong))
    with pytest.raises(CheckpointError, match=r"training_state.json' is damaged: .*resume"):
        checkpoints.read_progress(path)


def test_a_moment_that_is_missing_is_an_error_of_the_checkpoint(tmp_path):
    moments = checkpoints.read_moments(save(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors' does not hold 'exp_avg.b'"):
        moments["exp_avg.b"]
