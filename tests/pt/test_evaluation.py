"""Measures of language models in PyTorch."""

from __future__ import annotations

from support.contract.evaluation import EvaluationContract
from support.pt_models import BACKEND


class TestEvaluation(EvaluationContract):
    backend = BACKEND
