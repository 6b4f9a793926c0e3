"""Settings that every test shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# So that a failed assertion in a helper shows its values, as one in a test does.
pytest.register_assert_rewrite("support")

# The test run is deterministic and quick; HYPOTHESIS_PROFILE=fuzz looks longer and elsewhere.
settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("smoke", settings.get_profile("quick"), max_examples=5)
settings.register_profile("fuzz", max_examples=5000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

#: Modules of `tests/tf` and `tests/flax` that mostly trace and compile. Coverage slows that by
#: half, and other tests run the same lines of the backend.
UNMEASURED = {
    "test_batches.py",
    "test_compilations.py",
    "test_contrasts.py",
    "test_evaluation.py",
    "test_golden.py",
    "test_grammar.py",
    "test_healing.py",
    "test_pipelines.py",
    "test_prompt_cache.py",
    "test_speculation.py",
}


def is_measured(path: Path) -> bool:
    """Whether coverage counts what the tests of a module run."""
    return path.parent.name not in ("tf", "flax") or path.name not in UNMEASURED


@pytest.fixture(autouse=True, scope="module")
def _measured(request):
    """Pause coverage, where it runs, for the modules that it does not count."""
    coverage = sys.modules.get("coverage")
    measuring = coverage and coverage.Coverage.current()
    if not measuring or is_measured(request.path):
        yield
        return
    measuring.stop()
    yield
    measuring.start()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on localhost, which huggingface-hub asks, with an empty cache."""
    from support.hub_server import serve_hub  # its assertions are rewritten from here on

    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_computations():
    """Drop what JAX compiled for the tests of a module.

    XLA maps about 20 regions of memory for each computation, and Linux gives a process 65,530: in
    one process for all tests the compiler would crash.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
