"""Many clients at once, some of whom go away: no request is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio

import soak


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
