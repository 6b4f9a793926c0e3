"""Settings that every test shares."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# So that a failed assertion in a helper shows its values, as one in a test does.
pytest.register_assert_rewrite("support")

# The test run is deterministic and quick; HYPOTHESIS_PROFILE=fuzz looks longer and elsewhere.
settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=5000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_computations():
    """Drop what JAX compiled for the tests of a module.

    XLA maps about 20 regions of memory for each computation, and Linux gives a process 65,530: in
    one process for all tests the compiler would crash.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
