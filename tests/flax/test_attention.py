"""Attention in Flax, held to what every backend does."""

from __future__ import annotations

from support.contract.attention import AttentionContract
from support.flax_models import BACKEND


class TestAttention(AttentionContract):
    backend = BACKEND
