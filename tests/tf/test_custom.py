"""Loops of users in TensorFlow."""

from __future__ import annotations

from support.contract.custom import CustomContract
from support.tf_models import BACKEND


class TestCustom(CustomContract):
    backend = BACKEND
