"""What a run writes down on the way: ``log.jsonl``, TensorBoard's events, a picture."""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from gpt2x.formats.tensorflow.crc32c import crc32c, masked
from gpt2x.storage.atomic import atomic_file

LOG = "log.jsonl"
PICTURE = "loss.png"
EVENTS = "runs"

Line = Mapping[str, Any]


class Log:
    """The log of a run: one JSON object a line.

    A run that goes on from a checkpoint drops what was written after it, so that the log reads as
    that of an unbroken run.

    Args:
        output_dir: the run's folder.
        step: of the checkpoint, 0 for a new run.
    """

    def __init__(self, output_dir: Path, step: int) -> None:
        self._path = output_dir / LOG
        kept = [line for line in read(self._path) if line["step"] <= step] if step else []
        with atomic_file(self._path) as beside:
            beside.write_text("".join(map(_text, kept)), "utf-8")
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        self._events = _Events(output_dir, step) if find_spec("tensorboard") else None

    def add(self, line: Line) -> None:
        """Append a line."""
        self._file.write(_text(line))
        self._file.flush()
        if self._events is not None:
            self._events.add(line)

    def close(self) -> None:
        """Close the file, and draw the picture of the loss if matplotlib is installed."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        if find_spec("matplotlib"):
            draw(read(self._path), self._path.with_name(PICTURE))


def _text(line: Line) -> str:
    # JSON has no infinity.
    is_infinite = {name for name, value in line.items() if value and not math.isfinite(value)}
    return json.dumps({k: None if k in is_infinite else v for k, v in line.items()}) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; what is not one, as where a kill cut it short, is left out."""
    lines = []
    texts = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ()
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and _is_of_numbers(line):
            lines.append(line)
    return lines


def _is_of_numbers(line: Line) -> bool:
    return all(value is None or isinstance(value, int | float) for value in line.values())


def evaluation(lines: Sequence[Line], step: int) -> dict[str, Any]:
    """Return the line of the evaluation at a step; empty if there was none."""
    found = [line for line in lines if line["step"] == step and "eval_loss" in line]
    return dict(found[-1]) if found else {}


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the losses of a log over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name, label, marker in (("loss", "training", ""), ("eval_loss", "validation", ".")):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)


class _Events:
    """TensorBoard's file of events: TFRecords of its protocol buffers.

    Its own writers import TensorFlow, or a stand-in that has every attribute.
    """

    def __init__(self, output_dir: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder = output_dir / EVENTS
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._write(file_version="brain.Event:2")
        # TensorBoard forgets what an earlier file says of later steps.
        session = event_pb2.SessionLog
        self._write(step=step + 1, session_log=session(status=session.START))

    def add(self, line: Line) -> None:
        """Write the numbers of a line."""
        tags = [(name, value) for name, value in line.items() if name != "step"]
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in tags]
        self._write(step=line["step"], summary=self._summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        # Either is followed by its checksum.
        for part in (length, data):
            self._file.write(part + struct.pack("<I", masked(crc32c(part))))
        self._file.flush()
