"""Text constrained to a grammar, in PyTorch."""

from __future__ import annotations

from support.contract.grammar import GrammarContract
from support.pt_models import BACKEND


class TestGrammars(GrammarContract):
    backend = BACKEND
