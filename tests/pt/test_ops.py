"""The decoding core's operations: PyTorch gives what the numpy reference gives."""

from __future__ import annotations

from gpt2x.pt.ops import CPU_OPS
from support.ops_programs import check_results, run_programs


def test_operations_agree_with_numpy():
    check_results(CPU_OPS, run_programs(CPU_OPS))
