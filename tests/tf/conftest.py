"""The tests of the TensorFlow backend; skipped where TensorFlow is not installed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sized
from pathlib import Path

import pytest

# Tiny models run in no time; what takes time is to make their graphs fast, which XLA (it reads this
# when it starts) and TensorFlow are told to leave. XLA's older way to emit fused operations takes
# less time too.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
# XLA writes down the computations of serving when it compiles them.
_MODULES = tempfile.TemporaryDirectory()
_FLAGS += f" --xla_dump_to={_MODULES.name} --xla_dump_hlo_as_text"
_FLAGS += " --xla_dump_hlo_module_re=run_(piece|step|choice|log_probabilities)"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


class _Modules(Sized):
    """The computations of serving that XLA compiles from now on."""

    def __init__(self) -> None:
        self._seen = self._files()

    def __len__(self) -> int:
        return len(self._files() - self._seen)

    @staticmethod
    def _files() -> set[Path]:
        return set(Path(_MODULES.name).glob("*before_optimizations.txt"))


@pytest.fixture
def compiled():
    """Something that is as long as the list of the computations that XLA compiles."""
    return _Modules()
