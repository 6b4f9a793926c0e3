"""The log of a run, and the picture of it."""

import json
import math

import pytest

from gpt2x.train import log


def lines(folder):
    return [json.loads(text) for text in (folder / log.LOG).read_text().splitlines()]


def write(folder, step, *added):
    found = log.Log(folder, step)
    for line in added:
        found.add(line)
    found.close()


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, 0, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0})
    with (tmp_path / log.LOG).open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed
    write(tmp_path, 2, {"step": 3, "loss": 1.5})
    assert lines(tmp_path) == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 1.5},
    ]
    write(tmp_path, 0, {"step": 1, "loss": 9.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 9.0}]


def test_what_is_not_finite_is_null(tmp_path):
    write(tmp_path, 0, {"step": 1, "eval_loss": 800.0, "perplexity": math.inf})
    assert lines(tmp_path) == [{"step": 1, "eval_loss": 800.0, "perplexity": None}]
    assert log.evaluation(log.read(tmp_path / log.LOG), 1)["eval_loss"] == 800.0
    assert log.evaluation([], 1) == {}


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, 0, {"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 2.0})
    assert (tmp_path / log.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_tensorboard_reads_the_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    write(tmp_path, 0, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    (path,) = (tmp_path / log.EVENTS).iterdir()
    data, events = path.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        events.append(accumulator.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in events[2:]]
    assert found == [(1, "loss", 3.0), (2, "loss", 2.0)]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].step == 1  # what an earlier run wrote from there on does not count


def test_what_is_not_a_line_of_a_log_is_left_out(tmp_path):
    path = tmp_path / log.LOG
    path.write_bytes(b'\xff\xfe\n[1]\n{"step": 1, "loss": "x"}\n{"step": 1, "loss": 2.0}\nnull\n')
    write(tmp_path, 1, {"step": 2, "loss": 1.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
