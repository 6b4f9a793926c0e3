"""Speculation in PyTorch."""

from __future__ import annotations

from support.contract.speculation import SpeculationContract
from support.pt_models import BACKEND


class TestSpeculation(SpeculationContract):
    backend = BACKEND
