"""Token healing by the TensorFlow models."""

from __future__ import annotations

from support.contract.healing import HealingContract
from support.tf_models import BACKEND


class TestHealing(HealingContract):
    backend = BACKEND
