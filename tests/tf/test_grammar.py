"""Text constrained to a grammar, in TensorFlow."""

from __future__ import annotations

from support.contract.grammar import GrammarContract
from support.tf_models import BACKEND


class TestGrammars(GrammarContract):
    backend = BACKEND
