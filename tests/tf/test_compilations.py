"""How often XLA compiles `generate` in TensorFlow: once for a strategy and a bucket.

Counted by the modules that XLA itself dumps, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Of the others, `tests/flax/test_compilations.py` counts the same in less time.
STRATEGIES = ("beams", "contrastive")
SCRIPT = """
import glob, sys
from support.compilations import calls
from support.tf_models import tiny_model
def modules():
    return len(glob.glob(sys.argv[1] + "/*decode*before_optimizations.txt"))
model = tiny_model(n_layer=1)
for strategy in sys.argv[2:]:
    before = modules()
    for ids, options in calls(strategy):
        model.generate(ids, jit_compile=True, **options)
        print(strategy, modules() - before, sep=":")
"""


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """How many modules there are for a strategy after each of its calls."""
    folder = tmp_path_factory.mktemp("modules")
    flags = f"{os.environ['XLA_FLAGS']} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *STRATEGIES],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {}
    for line in done.stdout.splitlines():
        strategy, count = line.split(":")
        counts.setdefault(strategy, []).append(int(count))
    return counts


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_compilation_serves_other_values_and_lengths(strategy, counts):
    first, *others = counts[strategy]
    assert first >= 1
    assert others == [first] * len(others)
