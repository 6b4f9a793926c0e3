"""Progress of a call with several inputs: a bar, or a function that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

#: Whether to show a bar, or a function of the answers so far and of all (None if unknown).
Progress = bool | Callable[[int, int | None], Any]


def shown(
    answers: Iterator[Any], total: int | None, progress: Progress, title: str
) -> Iterator[Any]:
    """Return the answers, and show how many there are as they are taken."""
    if callable(progress):
        return _told(answers, total, progress)
    return _with_bar(answers, total, title) if progress else answers


def _told(
    answers: Iterator[Any], total: int | None, progress: Callable[[int, int | None], Any]
) -> Iterator[Any]:
    for number, answer in enumerate(answers, 1):
        progress(number, total)
        yield answer


def _with_bar(answers: Iterator[Any], total: int | None, title: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, title, total=total, console=Console(stderr=True))
