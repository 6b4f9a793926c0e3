"""What a call costs in memory and processor time, measured in a process of its own."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

_MEGABYTE = 2**20
_ADDRESS_SPACE = 3 * 2**30  # beyond what this process has: what runs away ends here


class Cost(NamedTuple):
    """What a call said and what it took.

    Attributes:
        said: the text of what it returned or raised, after the exception's name.
        megabytes: how far its memory rose above what this process had, at most.
        seconds: processor time, the wall clock has no part in it.
    """

    said: str
    megabytes: float
    seconds: float


def cost(call: Callable[[], Any], seconds: int = 20) -> Cost:
    """Run a call in a fork of this process, which is killed after so much processor time."""
    before = _status("VmRSS")
    with tempfile.TemporaryFile() as said:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of forks; the child does not use it
            child = os.fork()
        if child == 0:
            _run(call, said.fileno(), seconds)
        _, status, usage = os.wait4(child, 0)
        said.seek(0)
        text = said.read().decode()
    if os.WIFSIGNALED(status):
        text = f"killed by signal {os.WTERMSIG(status)} {text}"
    peak = usage.ru_maxrss * 1024
    return Cost(text, (peak - before) / _MEGABYTE, usage.ru_utime + usage.ru_stime)


def _run(call: Callable[[], Any], said: int, seconds: int) -> None:
    sys.settrace(None)  # coverage would take as much time again, and learns nothing from a fork
    try:
        space = _status("VmSize") + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        text = str(call())
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    os.write(said, text[:2000].encode("utf-8", "replace"))
    os._exit(0)


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
