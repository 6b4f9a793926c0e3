"""Whether `set_seed` seeds a framework, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from gpt2x import backends, set_seed
{before}
set_seed(7)
backends.require({backend!r}, "the test")
import {module}
first = {draw}
set_seed(7)
assert {draw} == first
set_seed(8)
assert {draw} != first
# A generator that was seeded once goes on.
set_seed(7)
{draw}
backends.require({backend!r}, "the test")
assert {draw} != first
"""


def check_seeding(backend: str, module: str, draw: str, is_imported: bool) -> None:
    """Assert that `set_seed` repeats a draw, with a framework imported before it or after."""
    before = f"import {module}" if is_imported else ""
    code = SCRIPT.format(before=before, backend=backend, module=module, draw=draw)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
