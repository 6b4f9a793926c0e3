"""The tests of the TensorFlow backend; skipped where TensorFlow is not installed."""

from __future__ import annotations

import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
