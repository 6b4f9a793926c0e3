"""Attention in TensorFlow, held to what every backend does."""

from __future__ import annotations

from support.contract.attention import AttentionContract
from support.tf_models import BACKEND


class TestAttention(AttentionContract):
    backend = BACKEND
