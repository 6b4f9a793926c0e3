"""The models in TensorFlow, held to what every backend does."""

from __future__ import annotations

from support.contract.model import ModelContract
from support.tf_models import BACKEND


class TestModel(ModelContract):
    backend = BACKEND
