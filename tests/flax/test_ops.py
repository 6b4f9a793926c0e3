"""The decoding core's operations: JAX gives what the numpy reference gives."""

from __future__ import annotations

import jax
import pytest

from gpt2x.flax.ops import JAX_OPS
from support.ops_programs import check_results, run_programs


@pytest.mark.parametrize("transform", [lambda run: run, jax.jit], ids=["eager", "jit"])
def test_operations_agree_with_numpy(transform):
    check_results(JAX_OPS, transform(lambda: run_programs(JAX_OPS))())
