"""Texts that a Flax model writes together."""

from __future__ import annotations

from support.contract.serving import CompiledSlotsContract
from support.flax_models import BACKEND


class TestSlots(CompiledSlotsContract):
    backend = BACKEND
