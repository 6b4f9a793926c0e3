"""Texts that a Flax model writes together."""

from __future__ import annotations

from support.contract.serving import SlotsContract
from support.flax_models import BACKEND


class TestSlots(SlotsContract):
    backend = BACKEND
