"""The tests of the TensorFlow backend; skipped where TensorFlow is not installed."""

from __future__ import annotations

import os

import pytest

# Tiny models run in no time; what takes time is to compile them. XLA reads this when it starts.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
