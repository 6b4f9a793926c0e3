"""The estimate of a batch's memory, and what the operating system has left."""

from __future__ import annotations

import sys

import pytest

from gpt2x.config import GPT2Config
from gpt2x.generation.memory import Context, Load, estimated_bytes, fitting_size, host_memory

GPT2 = Context(GPT2Config(), width=1, slots=1024, itemsize=4)
LOAD = Load((GPT2,), rows_per_prompt=1, columns=1, use_cache=True, records=0)
ROW = 2 * 12 * 1024 * 768 * 4  # bytes of the keys and values of a row


def test_the_estimate_has_caches_blocks_and_scores():
    one = estimated_bytes(LOAD, 1)
    assert ROW < one < 1.05 * ROW
    assert estimated_bytes(LOAD, 8) == 8 * one
    half = LOAD._replace(contexts=(GPT2._replace(itemsize=2),))
    assert ROW / 2 < estimated_bytes(half, 1) < 1.05 * ROW / 2
    assert estimated_bytes(LOAD._replace(contexts=(GPT2, GPT2)), 1) - one == ROW
    # The prompt's cache is still there when it is copied for its beams.
    assert 5 * ROW < estimated_bytes(LOAD._replace(rows_per_prompt=4), 1) < 5.1 * ROW
    scores = estimated_bytes(LOAD._replace(records=10), 1) - one
    assert scores == 10 * 50257 * 4
    long = LOAD._replace(contexts=(GPT2._replace(width=1000),))
    attention = 12 * 1000 * 1024 * 4
    assert estimated_bytes(long, 1) - one > attention
    assert estimated_bytes(long._replace(use_cache=False), 1) < estimated_bytes(long, 1)


def test_a_batch_is_halved_until_it_fits():
    sizes = [(None, 100), (10**12, 100), (60 * ROW, 50), (30 * ROW, 25), (4 * ROW, 2), (0, 1)]
    for available, expected in sizes:
        assert fitting_size(LOAD, 100, available) == expected
    assert fitting_size(LOAD, 1, 0) == 1


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:   4000 kB\nHugePages_Total: 0\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4000 * 1024),
        # The second version of control groups, the limit on the parent.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "900000\n",
                "sys/fs/cgroup/job/memory.max": "2000000\n",
                "sys/fs/cgroup/job/memory.current": "900000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 100000\n",
            },
            1_200_000,
        ),
        # The first version, in a container: the path is one of the machine outside.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            },
            500_000,
        ),
        # More in use than the limit, for a moment.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1000\n",
                "sys/fs/cgroup/memory.current": "2000\n",
            },
            0,
        ),
    ],
    ids=["no groups", "version 2", "version 1", "beyond"],
)
def test_control_groups_limit_what_the_system_has(tmp_path, files, expected):
    write(tmp_path, MEMINFO | files)
    assert host_memory(tmp_path) == expected


def test_nothing_is_known_without_these_files(tmp_path):
    assert host_memory(tmp_path) is None
    if sys.platform == "linux":
        assert host_memory() > 2**20
