"""What a run of training shows at a terminal."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpt2x.train.checkpoints import Progress as Standing
from gpt2x.train.loop import Reporter


class Display(Reporter):
    """A progress bar with the loss, tokens a second, time left and memory; lines in a file.

    Attributes:
        has_begun: whether this process reports.
        checkpoint: that a signal has left; else None.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.has_begun = False
        self.checkpoint: Path | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[about]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None, about="")

    def begin(self, progress: Standing, steps: int) -> None:
        self.has_begun = True
        self._bar.update(self._task, total=steps, completed=progress.step)
        self._bar.start()

    def step(self, progress: Standing) -> None:
        self._bar.update(self._task, completed=progress.step)

    def line(self, line: Mapping[str, Any]) -> None:
        if "eval_loss" in line:
            parts = [f"{name} {_shown(value)}" for name, value in line.items() if name != "step"]
            self._console.print(f"step {line['step']}: {', '.join(parts)}")
            return
        about = f"loss {line['loss']:.4f} · {line['tokens_per_second']:,.0f} tokens/s · {_memory()}"
        self._bar.update(self._task, about=about)
        if not self._console.is_terminal:
            self._console.print(f"step {line['step']}: {about}")

    def sample(self, text: str) -> None:
        self._console.print(f"--- sample ---\n{text}\n---")

    def stopped(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def end(self) -> None:
        self._bar.stop()


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _memory() -> str:
    """Return the most memory that the process has taken."""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"
