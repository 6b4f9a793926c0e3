"""Several processes that answer behind one port.

The parent imports no framework. It listens, starts the workers, replaces one that dies, and tells
them when to end: by a message, since a terminal or a service manager may send its signal to all of
them at once. A worker whose parent is gone ends too.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from prometheus_client import multiprocess

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_PAUSE = 30.0  # seconds before a worker that cannot start is started again

#: What a worker is: it answers at a socket, sends "ready", and ends when something can be read.
Work = Callable[[socket.socket, Connection], None]


class StartError(RuntimeError):
    """The first worker ended before it was ready."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    messages: Connection
    is_ready: bool = False


class Workers:
    """Processes that share a socket.

    Args:
        work: what each does; it can be pickled.
        listening: where they answer.
        count: how many.
        ready: called when all answer.
    """

    def __init__(
        self, work: Work, listening: socket.socket, count: int, ready: Callable[[], None]
    ) -> None:
        self._work, self._listening = work, listening
        self._count, self._ready = count, ready
        self._context = multiprocessing.get_context("spawn")  # frameworks do not survive a fork
        self._workers: list[_Worker] = []
        self._failures = 0  # workers in a row that ended before they were ready
        self._not_before = 0.0  # when the next one may be started
        self._has_started = self._is_stopping = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, and until all workers have ended then.

        Raises StartError if the first one cannot start, which has said why.
        """
        before = {number: signal.signal(number, self._take_signal) for number in _SIGNALS}
        try:
            while self._workers or not self._is_stopping:
                self._start()
                self._wait()
        finally:
            for worker in self._workers:
                worker.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self) -> None:
        """Start the workers that are missing; the first one alone, to see that it can."""
        wanted = self._count if any(worker.is_ready for worker in self._workers) else 1
        while len(self._workers) < wanted and not self._is_stopping:
            if time.monotonic() < self._not_before:
                return
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=self._work, args=(self._listening, theirs), name="gpt2x-worker"
            )
            self._spawn(process)
            theirs.close()
            self._workers.append(_Worker(process, ours))
            if self._is_stopping:  # the signal came before the worker was in the list
                ours.send("stop")

    def _spawn(self, process: SpawnProcess) -> None:
        """Start a process, which leaves Ctrl-C to others until it takes it itself."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, self._take_signal)

    def _wait(self) -> None:
        """Wait for something that happens to a worker."""
        things: dict[Any, _Worker] = {}
        for worker in self._workers:
            things[worker.process.sentinel] = worker
            if not worker.is_ready:
                things[worker.messages] = worker
        is_missing = len(self._workers) < self._count
        # A signal may have come since the loop looked; it is seen within a second.
        for thing in connection.wait(list(things), 0.05 if is_missing else 1.0):
            worker = things[thing]
            if thing is worker.messages:
                self._greet(worker)
            else:
                self._bury(worker)

    def _greet(self, worker: _Worker) -> None:
        try:
            worker.messages.recv()
        except EOFError:
            return  # it has ended, which its sentinel tells
        worker.is_ready, self._failures = True, 0
        are_ready = sum(each.is_ready for each in self._workers) == self._count
        if are_ready and not self._has_started:
            self._has_started = True
            self._ready()

    def _bury(self, worker: _Worker) -> None:
        """Take note of a worker that has ended."""
        self._workers.remove(worker)
        worker.process.join()
        worker.messages.close()
        multiprocess.mark_process_dead(worker.process.pid)
        if self._is_stopping:
            return
        if not (worker.is_ready or self._has_started or self._workers):
            raise StartError("The first worker ended before it was ready.")
        self._failures += not worker.is_ready
        pause = min(2.0**self._failures - 1, _LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause
        _LOG.warning(
            "Worker %d ended (exit code %d); another one takes its place.",
            worker.process.pid,
            worker.process.exitcode,
        )

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_stopping:  # a second one ends all at once
            for worker in self._workers:
                worker.process.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._is_stopping = True
        for worker in self._workers:
            with suppress(OSError):  # it has ended
                worker.messages.send("stop")
