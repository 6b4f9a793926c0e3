"""A function in other processes: its results in the order of what it is given."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], processes: int
) -> Generator[R, None, None]:
    """Yield the results of a function, in order.

    At most two items for each process are taken before their results are asked for.

    Args:
        function: can be pickled, as can the items and results.
        items: are taken in this thread.
        processes: how many work; with 1, this one does.

    Raises:
        RuntimeError: if a process ends before it is told to.
    """
    if processes == 1:
        yield from map(function, items)
        return
    with ExitStack() as stack:
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(processes):
            idle.put(stack.enter_context(_Worker(function)))

        def call(item: T) -> R:
            worker = idle.get()
            try:
                return worker(item)
            finally:
                idle.put(worker)

        threads = stack.enter_context(ThreadPoolExecutor(processes))
        stack.callback(threads.shutdown, cancel_futures=True)
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(threads.submit(call, item))
            if len(waiting) == 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Worker:
    """A function in a process of its own.

    A process of `multiprocessing` would either inherit locks that threads of a framework hold, or
    run the user's script again. This one ends with its parent, however that ends.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        self._send(function)

    def __call__(self, item: Any) -> Any:
        self._send(item)
        assert self._process.stdout is not None
        try:
            is_error, result = pickle.load(self._process.stdout)
        except EOFError:
            raise _ended(self._process) from None
        if is_error:
            raise result
        return result

    def _send(self, item: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(item, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _ended(self._process) from None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _ended(process: subprocess.Popen[bytes]) -> RuntimeError:
    return RuntimeError(
        f"A process that encodes texts ended by itself, with code {process.wait()}. If it was out "
        "of memory, ask for fewer processes."
    )


def _environment() -> dict[str, str]:
    """Return the environment of a worker: the same modules, and one thread each."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    threads = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": path}


def serve() -> None:
    """Be a worker: read a function and its arguments from standard input, and write results."""
    # The parent gets the signal too, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes elsewhere
    function = pickle.load(sys.stdin.buffer)
    while True:
        try:
            item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result = False, function(item)
        except Exception as error:
            result = True, error
        pickle.dump(result, results, pickle.HIGHEST_PROTOCOL)
        results.flush()
