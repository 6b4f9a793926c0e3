"""Speculation in Flax."""

from __future__ import annotations

from support.contract.speculation import SpeculationContract
from support.flax_models import BACKEND


class TestSpeculation(SpeculationContract):
    backend = BACKEND
    ways = ({}, {"trace": False})
