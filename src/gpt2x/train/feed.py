"""The rows of each step: in a drawn order out of data at hand, or as a stream gives them.

A step has the rows of all processes, and each process takes its own. Batches are always full: the
order goes on from one epoch to the next, so that every step has the same shapes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from gpt2x.corpus import Place
from gpt2x.train.data.order import Order

State = Mapping[str, Any]


class Rows(Protocol):
    """Data at hand: rows by their numbers."""

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's arguments for rows int [R]: arrays [R, ...], labels among them."""

    def places(self, index: int) -> list[Place]:
        """Return where in the files a row comes from."""


@runtime_checkable
class Stream(Protocol):
    """Data that is read once for each epoch, from its beginning to its end."""

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next row, of the next epoch where one ends."""

    def places(self) -> list[Place]:
        """Return where the rows since the last call come from."""

    def state(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON has it, with ``epoch``."""

    def restore(self, state: State) -> None:
        """Go to where `state` was."""


class Portion(NamedTuple):
    """The rows of a step.

    Attributes:
        inputs: the model's arguments by name, each [rows of all processes, ...].
        places: tells where they come from.
        state: where the feed stands behind them, for a checkpoint.
    """

    inputs: dict[str, np.ndarray]
    places: Callable[[], list[Place]]
    state: State


class Feed(Protocol):
    """Gives one portion a step, without end."""

    def portions(self, state: State) -> Iterator[Portion]:
        """Yield the portions that follow a state; an empty one is the beginning."""

    def epoch(self, state: State) -> float:
        """Return how often the data was read at a state."""


class ShuffledFeed:
    """Rows in an order that is drawn anew for each epoch.

    Args:
        rows: the data.
        seed: of the order.
        size: rows of a step.
    """

    def __init__(self, rows: Rows, seed: int, size: int) -> None:
        self._rows, self._size = rows, size
        self._order = Order(seed, len(rows))

    def portions(self, state: State) -> Iterator[Portion]:
        seen = int(state.get("rows", 0))
        while True:
            indices = self._order(np.arange(seen, seen + self._size, dtype=np.int64))
            seen += self._size
            places = partial(self._places, indices)
            yield Portion(self._rows.rows(indices), places, {"rows": seen})

    def epoch(self, state: State) -> float:
        return int(state.get("rows", 0)) / len(self._rows)

    def _places(self, indices: np.ndarray) -> list[Place]:
        return [place for index in indices for place in self._rows.places(int(index))]


class StreamedFeed:
    """Rows in the order in which they are read.

    Args:
        stream: of rows.
        size: rows of a step.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream, self._size = stream, size

    def portions(self, state: State) -> Iterator[Portion]:
        if state:
            self._stream.restore(state)
        while True:
            rows = [next(self._stream) for _ in range(self._size)]
            inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield Portion(inputs, _always(self._stream.places()), self._stream.state())

    def epoch(self, state: State) -> float:
        return float(state.get("epoch", 0))


def _always(places: list[Place]) -> Callable[[], list[Place]]:
    return lambda: places


class Prefetched:
    """Portions that a thread prepares while the model works on the one before.

    Attributes:
        waited: seconds for which the consumer has waited.
    """

    def __init__(self, portions: Iterator[Portion], depth: int = 2) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[Portion | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(portions,), daemon=True)
        self._thread.start()

    def __next__(self) -> Portion:
        start = time.perf_counter()
        found = self._queue.get()
        self.waited += time.perf_counter() - start
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _fill(self, portions: Iterator[Portion]) -> None:
        try:
            for portion in portions:
                if not self._put(portion):
                    return
        except BaseException as error:  # raised where the portion is asked for
            self._put(error)
        else:
            self._put(StopIteration())

    def _put(self, found: Portion | BaseException) -> bool:
        """Wait for room; return whether anybody still reads."""
        while not self._closed.is_set():
            try:
                self._queue.put(found, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
