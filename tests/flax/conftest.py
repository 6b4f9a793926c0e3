"""The tests of the Flax backend; skipped where JAX or Flax is not installed."""

from __future__ import annotations

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

# Tiny models run in no time; what takes time is to compile them.
jax.config.update("jax_disable_most_optimizations", True)
