"""Text constrained to a grammar, in Flax."""

from __future__ import annotations

from support.contract.grammar import GrammarContract
from support.flax_models import BACKEND


class TestGrammars(GrammarContract):
    backend = BACKEND
