"""What a run writes down on the way: ``log.jsonl``, TensorBoard's events, and a picture of the loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

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
        self._events = _events(output_dir, step)

    def add(self, line: Line) -> None:
        """Append a line."""
        self._file.write(_text(line))
        self._file.flush()
        if self._events is not None:
            for name, value in line.items():
                if name != "step":
                    self._events(name, value, line["step"])

    def close(self) -> None:
        """Close the file, and draw the picture of the loss if matplotlib is installed."""
        self._file.close()
        if find_spec("matplotlib"):
            draw(read(self._path), self._path.with_name(PICTURE))


def _text(line: Line) -> str:
    # JSON has no infinity.
    is_infinite = {name for name, value in line.items() if value and not math.isfinite(value)}
    return json.dumps({k: None if k in is_infinite else v for k, v in line.items()}) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; one that a kill cut short is left out."""
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the losses of a log over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), label=label, marker="." if label[0] == "v" else ""
            )
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)


def _events(output_dir: Path, step: int) -> Callable[[str, float, int], None] | None:
    """Return a function that writes TensorBoard's events; None without the library."""
    if not find_spec("tensorboard"):
        return None
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(output_dir / EVENTS))
    # TensorBoard forgets what an earlier file says of later steps.
    start = SessionLog(status=SessionLog.START)
    writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def add(name: str, value: float, step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=f"train/{name}", simple_value=value)])
        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        writer.flush()

    return add
