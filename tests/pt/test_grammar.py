"""Text constrained to a grammar, in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from support.contract.grammar import GrammarContract
from support.pt_models import BACKEND


class TestGrammars(GrammarContract):
    backend = BACKEND

    def test_parts_of_a_batch_change_no_text(self):
        options = {"do_sample": True, "temperature": 1.5, "num_return_sequences": 2}
        whole = self.generate("json_schema", **options)
        parts = self.generate("json_schema", batch_size=1, **options)
        np.testing.assert_array_equal(parts, whole)

    @pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5}])
    def test_drafts_change_no_text(self, options):
        expected = self.generate("json_schema", **options)
        for drafts in ({"prompt_lookup_num_tokens": 4}, {"assistant_early_exit": 1}):
            found = self.generate("json_schema", **options, **drafts)
            np.testing.assert_array_equal(found, expected)
