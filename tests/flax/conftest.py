"""The tests of the Flax backend; skipped where JAX or Flax is not installed."""

from __future__ import annotations

import pytest

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
