"""The tests of the Flax backend; skipped where JAX or Flax is not installed."""

from __future__ import annotations

import os

import pytest

# XLA's older way to emit fused operations takes two thirds of the time. XLA reads this when it
# starts.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

# Tiny models run in no time; what takes time is to compile them.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def compiled():
    """A list that grows with every computation that XLA compiles."""
    seen = []

    def listen(name, duration, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)
