"""The task heads in Flax, held to what every backend does."""

from __future__ import annotations

from support.contract.heads import HeadsContract
from support.flax_models import BACKEND


class TestHeads(HeadsContract):
    backend = BACKEND
