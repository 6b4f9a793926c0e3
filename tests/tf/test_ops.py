"""The decoding core's operations: TensorFlow gives what the numpy reference gives."""

from __future__ import annotations

import pytest
import tensorflow as tf

from gpt2x.tf.ops import TENSORFLOW_OPS
from ops_programs import check_results, run_programs


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_operations_agree_with_numpy(mode: str):
    run = lambda: run_programs(TENSORFLOW_OPS)  # noqa: E731
    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    check_results(TENSORFLOW_OPS, run())
