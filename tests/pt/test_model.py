"""The models in PyTorch, held to what every backend does."""

from __future__ import annotations

from support.contract.model import ModelContract
from support.pt_models import BACKEND


class TestModel(ModelContract):
    backend = BACKEND
