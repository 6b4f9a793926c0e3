"""JAX's training engine."""

from __future__ import annotations

import numpy as np

from support.contract.training import TrainingContract


class TestTraining(TrainingContract):
    backend = "flax"

    def check_weights(self, engine, wte):
        found = np.asarray(engine.model.transformer.wte.embedding[...])
        np.testing.assert_allclose(found, wte, rtol=1e-4, atol=1e-5)
