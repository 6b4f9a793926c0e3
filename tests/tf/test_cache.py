"""The key-value cache in TensorFlow, held to what every backend does."""

from __future__ import annotations

from support.contract.cache import CacheContract
from support.tf_models import BACKEND


class TestCache(CacheContract):
    backend = BACKEND
