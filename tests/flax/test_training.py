"""JAX's training engine."""

from __future__ import annotations

import numpy as np

from gpt2x.train.engine import MicroBatch
from support.contract.training import IDS, TrainingContract


class TestTraining(TrainingContract):
    backend = "flax"

    def check_weights(self, engine, wte):
        found = np.asarray(engine.model.transformer.wte.embedding[...])
        np.testing.assert_allclose(found, wte, rtol=1e-4, atol=1e-5)

    def test_steps_share_compilations_whatever_their_numbers(self, compiled):
        engine = self.engine()
        self.losses(engine, 1)
        compiled.clear()
        for number in (2, 3):
            shares = np.random.default_rng(number).dirichlet(np.ones(2))
            parts = [
                MicroBatch({"input_ids": rows, "labels": rows}, float(share), 2**62 + number)
                for rows, share in zip((IDS[:6], IDS[6:]), shares, strict=True)
            ]
            engine.step(parts, number, 1e-2 / number)
        assert not compiled
