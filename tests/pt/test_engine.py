"""The PyTorch engine under requests of several tokens."""

from __future__ import annotations

from support.contract.engine import EngineContract
from support.pt_models import BACKEND


class TestEngine(EngineContract):
    backend = BACKEND
