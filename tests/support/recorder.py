"""A streamer that keeps what it is given."""

from __future__ import annotations

from typing import Any

from gpt2x.generation import BaseStreamer


class Recorder(BaseStreamer):
    """Keeps the values of `put` in order."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: Any) -> None:
        self.values.append(value)

    def end(self) -> None:
        pass
