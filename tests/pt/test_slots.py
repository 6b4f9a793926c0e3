"""Texts that a PyTorch model writes together."""

from __future__ import annotations

from support.contract.serving import SlotsContract
from support.pt_models import BACKEND


class TestSlots(SlotsContract):
    backend = BACKEND
