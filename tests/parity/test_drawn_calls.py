"""Drawn calls of `generate` give the same tokens in the three frameworks, alone and in batches.

`tests/parity/drawn_calls.py` compares many more; a call that fails here is repeated by its number.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
pytest.importorskip("jax")

from support.drawn_calls import drawn_call
from support.same_tokens import Models, compare

SCRIPT = Path(__file__).with_name("drawn_calls.py")


@pytest.mark.slow
def test_the_same_tokens_in_every_framework_compiled_once():
    """Ten calls of four forms; in a process of its own, where XLA dumps what it compiles."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", "10", "--calls", "40"],
        capture_output=True,
        text=True,
        timeout=1500,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for backend in ("tf", "flax"):
        assert f"'forms compiled by {backend}': 4" in done.stdout


def test_the_same_tokens_alone_in_batches_and_fused(tmp_path):
    models = Models(tmp_path, [])
    for form in range(40):
        call = drawn_call(0, form, form * 10)
        different = [found for found in compare(models, call) if not found.is_tie]
        assert not different, (form, call)
