"""Speculation in TensorFlow."""

from __future__ import annotations

from support.contract.speculation import SpeculationContract
from support.tf_models import BACKEND


class TestSpeculation(SpeculationContract):
    backend = BACKEND
    ways = ({}, {"jit_compile": True})
