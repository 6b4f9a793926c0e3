"""Measures of language models in TensorFlow."""

from __future__ import annotations

from support.contract.evaluation import EvaluationContract
from support.tf_models import BACKEND


class TestEvaluation(EvaluationContract):
    backend = BACKEND
