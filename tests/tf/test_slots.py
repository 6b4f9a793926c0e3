"""Texts that a TensorFlow model writes together."""

from __future__ import annotations

from support.contract.serving import SlotsContract
from support.tf_models import BACKEND


class TestSlots(SlotsContract):
    backend = BACKEND
