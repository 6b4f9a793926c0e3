"""Calls of `generate` in parts, in Flax."""

from __future__ import annotations

from support.contract.batches import MASK, PROMPTS, SAMPLING, BatchesContract
from support.flax_models import BACKEND


class TestBatches(BatchesContract):
    backend = BACKEND

    def test_parts_share_one_compilation(self, model, compiled):
        self.texts(model, PROMPTS[:2], MASK[:2], **SAMPLING)
        compiled.clear()
        self.texts(model, PROMPTS, MASK, **SAMPLING, batch_size=2)
        assert not compiled
