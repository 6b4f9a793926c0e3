"""Token healing by the Flax models."""

from __future__ import annotations

from support.contract.healing import HealingContract
from support.flax_models import BACKEND


class TestHealing(HealingContract):
    backend = BACKEND
