"""Loops of users in Flax."""

from __future__ import annotations

from support.contract.custom import CustomContract
from support.flax_models import BACKEND


class TestCustom(CustomContract):
    backend = BACKEND
