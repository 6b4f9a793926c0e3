"""Calls of `generate` in parts, in TensorFlow."""

from __future__ import annotations

from support.contract.batches import BatchesContract
from support.tf_models import BACKEND


class TestBatches(BatchesContract):
    backend = BACKEND
