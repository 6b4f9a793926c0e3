"""Token healing by the PyTorch models."""

from __future__ import annotations

from support.contract.healing import HealingContract
from support.pt_models import BACKEND


class TestHealing(HealingContract):
    backend = BACKEND
