"""Texts that a TensorFlow model writes together."""

from __future__ import annotations

from support.contract.serving import CompiledSlotsContract
from support.tf_models import BACKEND


class TestSlots(CompiledSlotsContract):
    backend = BACKEND
