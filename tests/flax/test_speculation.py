"""Speculation in Flax."""

from __future__ import annotations

from support.contract.speculation import SAMPLING, SpeculationContract
from support.flax_models import BACKEND


class TestSpeculation(SpeculationContract):
    backend = BACKEND
    ways = ({"trace": False},)

    def test_one_compilation_serves_every_setting(self, model, compiled):
        options = {"assistant_early_exit": 1, "temperature": 0.8, **SAMPLING}
        self.texts(model, **options)
        compiled.clear()
        for change in ({"seed": 9}, {"temperature": 1.3}, {"assistant_confidence_threshold": 0.8}):
            self.texts(model, **{**options, **change})
        assert not compiled
