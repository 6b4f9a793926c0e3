"""The tests of the TensorFlow backend; skipped where TensorFlow is not installed."""

from __future__ import annotations

import os

import pytest

# Tiny models run in no time; what takes time is to make their graphs fast, which XLA (it reads this
# when it starts) and TensorFlow are told to leave. XLA's older way to emit fused operations takes
# less time too.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
