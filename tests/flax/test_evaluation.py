"""Measures of language models in Flax."""

from __future__ import annotations

from support.contract.evaluation import EvaluationContract
from support.flax_models import BACKEND


class TestEvaluation(EvaluationContract):
    backend = BACKEND
