"""Many clients at once, some of whom go away: no request is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx")


def load_soak():
    """Return the script as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)  # for its dataclasses
    spec.loader.exec_module(module)
    return module


soak = load_soak()


def test_clients_that_come_and_go_leave_nothing_behind():
    report = asyncio.run(soak.run(requests=150, clients=16, arguments=[]))
    assert sum(report.ended.values()) == 150
    assert set(report.ended) == {"answered", "streamed", "cancelled", "refused"}
    assert report.ended["cancelled"] > 10
    assert report.unlike == 0, "the same seed gives the same text, whatever runs beside it"
    assert report.after.running == report.after.waiting == 0
    assert report.after.threads <= report.before.threads + soak.POOL
    assert report.after.files <= report.before.files
    assert report.counted == report.ended["answered"] + report.ended["streamed"]
