"""A batch in a thread of its own, and the texts that wait to join it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from gpt2x.batching.batch import Text


class BusyError(Exception):
    """So many texts wait that no more are taken."""


class StoppingError(Exception):
    """No more texts are taken, since the server stops."""


class Texts(Protocol):
    """What a runner runs: a `Batch`, or what is like one."""

    @property
    def size(self) -> int:
        """Texts in it."""

    @property
    def texts(self) -> list[Text]:
        """The texts in it."""

    @property
    def has_room(self) -> bool:
        """Whether a text can join."""

    def check(self, text: Text) -> None:
        """Raise InvalidInputError if a text does not fit."""

    def join(self, text: Text) -> None:
        """Let a text join."""

    def step(self) -> None:
        """Continue the texts."""

    def remove(self, text: Text, reason: str, error: Exception | None = None) -> None:
        """Let a text end, if it is in it."""

    def abort(self, error: Exception) -> None:
        """Let all texts end for an error."""


class Runner:
    """Runs a batch for as long as there are texts; its methods may be called from any thread.

    A text's functions `receive` and `ended` are called in the runner's thread, so they must be
    quick.

    Args:
        batch: what it runs; nobody else may use it.
        max_queue: the most texts that wait.

    Attributes:
        max_queue: the same.
    """

    def __init__(self, batch: Texts, max_queue: int) -> None:
        self._batch = batch
        self.max_queue = max_queue
        self._waiting: deque[Text] = deque()
        self._unfinished: set[Text] = set()  # that wait or are in the batch
        self._cancelled: list[Text] = []
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="gpt2x-runner", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Texts in the batch."""
        return self._batch.size

    @property
    def is_idle(self) -> bool:
        """Whether no text waits or is written."""
        return not self._unfinished

    def submit(self, texts: Sequence[Text]) -> None:
        """Take texts, all or none of them.

        Raises:
            InvalidInputError: if one does not fit into the model.
            BusyError: if too many wait.
            StoppingError: after `stop`.
        """
        for text in texts:
            self._batch.check(text)
        with self._changed:
            if self._is_stopping:
                raise StoppingError("The server is stopping.")
            if len(self._waiting) + len(texts) > self.max_queue:
                raise BusyError(f"{len(self._waiting)} texts are waiting; try again later.")
            self._unfinished.update(texts)
            self._waiting.extend(texts)
            self._changed.notify()

    def cancel(self, text: Text) -> None:
        """Let a text end before the next step."""
        text.is_unwanted = True
        with self._changed:
            self._cancelled.append(text)
            self._changed.notify()

    def stop(self, grace: float = 0.0) -> None:
        """Take no more texts; after `grace` seconds at most, end those that there are."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(grace)
        with self._changed:
            left = list(self._unfinished)
        for text in left:
            self.cancel(text)
        self._thread.join()

    # ---- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            self._remove()
            while self._batch.has_room and self._waiting:
                self._join()
            if self._batch.size:
                self._step()
            with self._changed:
                self._unfinished = {text for text in self._unfinished if text.reason is None}

    def _wait(self) -> bool:
        """Wait until there is something to do; return False if there never will be."""
        with self._changed:
            while not (self._waiting or self._cancelled or self._batch.size):
                if self._is_stopping:
                    return False
                self._changed.wait()
            return True

    def _remove(self) -> None:
        """Let texts end that were cancelled, or whose time is over."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
            unfinished = list(self._unfinished)
        now = time.monotonic()
        late = [text for text in unfinished if text.deadline is not None and text.deadline <= now]
        for reason, texts in (("cancelled", cancelled), ("time", late)):
            for text in texts:
                with self._changed:
                    if text in self._waiting:
                        self._waiting.remove(text)
                self._batch.remove(text, reason)
                text.end(reason)

    def _join(self) -> None:
        with self._changed:
            text = self._waiting.popleft()
        try:
            self._batch.join(text)
        except Exception as error:
            text.end("error", error)

    def _step(self) -> None:
        try:
            self._batch.step()
        except Exception as error:  # whatever it is, other texts can still be written
            self._batch.abort(error)
