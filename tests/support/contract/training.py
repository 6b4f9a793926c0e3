"""What the training engine does in every backend: transformers' numbers, and steps that repeat.

A backend's `tests/.../test_training.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpt2x import backends
from gpt2x.config.lora import LoraConfig
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.engine import EngineOptions, MicroBatch, OptimizerSettings
from gpt2x.train.schedule import Schedule
from support.golden_data import GOLDEN, load_case
from support.training import log_of

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SETTINGS = OptimizerSettings(0.9, 0.95, 1e-8, 0.1, 1.0)
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 90, (12, 16))


def counts(labels: np.ndarray) -> np.ndarray:
    """Return how many labels of each row have a token before them."""
    return (labels[:, 1:] != IGNORE_INDEX).sum(axis=1)


def micro_batches(inputs: dict[str, np.ndarray], rows: int, seed: int = 0) -> list[MicroBatch]:
    """Divide the rows of a step."""
    total = counts(inputs["labels"]).sum()
    parts = range(0, len(inputs["labels"]), rows)
    batches = [{k: v[first : first + rows] for k, v in inputs.items()} for first in parts]
    return [
        MicroBatch(batch, counts(batch["labels"]).sum() / total, seed + number)
        for number, batch in enumerate(batches)
    ]


class TrainingContract:
    """Steps, evaluation and state of an engine."""

    backend: str

    @property
    def module(self) -> ModuleType:
        return backends.load(self.backend, module="training")

    def engine(
        self,
        settings: OptimizerSettings = SETTINGS,
        options: EngineOptions | None = None,
        kind: str = "LMHeadModel",
        folder: Any = GOLDEN / "plain",
        prepare: Callable[[Any], None] = lambda model: None,
        **config: Any,
    ) -> Any:
        """Return an engine for a golden model."""
        package, prefix = backends.load(self.backend), backends.get(self.backend).prefix
        cls = getattr(package, prefix + kind)

        def load() -> Any:
            model = cls.from_pretrained(folder, **config)
            prepare(model)
            return model

        return self.module.Engine(load, settings, options or EngineOptions())

    def losses(self, engine: Any, steps: int = 3, first: int = 1, seed: int = 0) -> list[float]:
        """Make steps over the same rows, two micro-batches each."""
        return [
            float(
                engine.step(
                    micro_batches({"input_ids": IDS, "labels": IDS}, 6, 100 * number + seed),
                    number,
                    1e-2,
                ).loss
            )
            for number in range(first, first + steps)
        ]

    @pytest.mark.parametrize("name", ["plain", "clipped", "accumulated"])
    def test_steps_are_those_of_transformers_trainer(self, name):
        case = load_case(f"plain/training/{name}")
        run = dict(case.settings["training"])
        arguments = TrainingArguments(
            output_dir="", **{**run, "max_grad_norm": min(run.get("max_grad_norm", 1.0), 1e9)}
        )
        settings = OptimizerSettings(
            arguments.adam_beta1,
            arguments.adam_beta2,
            arguments.adam_epsilon,
            arguments.weight_decay,
            arguments.max_grad_norm,
        )
        engine = self.engine(settings, **NO_DROPOUT)
        steps = len(case.outputs["loss"])
        schedule = Schedule(arguments, steps)
        rows = len(case.inputs["input_ids"]) // steps
        for step in range(steps):
            mine = slice(step * rows, (step + 1) * rows)
            inputs = {name: array[mine].copy() for name, array in case.inputs.items()}
            rate = schedule.learning_rate(step)
            assert rate == pytest.approx(case.outputs["learning_rate"][step], rel=1e-6)
            found = engine.step(micro_batches(inputs, 2), step + 1, rate)
            # The trainer rounds losses to four digits behind the point.
            assert float(found.loss) == pytest.approx(case.outputs["loss"][step], abs=1e-4)
            assert float(found.grad_norm) == pytest.approx(
                case.outputs["grad_norm"][step], rel=1e-4
            )
        self.check_weights(engine, case.outputs["wte"])

    def check_weights(self, engine: Any, wte: np.ndarray) -> None:
        """Hold the token embedding, as it is saved, against an array."""
        raise NotImplementedError

    def test_evaluation_has_no_dropout_and_changes_nothing(self):
        engine = self.engine()
        inputs = {"input_ids": IDS, "labels": IDS}
        first = engine.evaluate(inputs, logits=False)
        with_logits = engine.evaluate(inputs, logits=True)
        assert first.logits is None
        assert first.loss == pytest.approx(with_logits.loss, rel=1e-5)
        logits = with_logits.logits.astype(np.float64)
        assert logits.shape == (12, 16, 97)
        logits -= logits.max(-1, keepdims=True)
        likelihood = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -np.take_along_axis(likelihood[:, :-1], IDS[:, 1:, None], -1).mean()
        assert first.loss == pytest.approx(expected, rel=1e-5)

    def test_dropout_is_a_function_of_the_seed_and_a_restored_run_goes_on(self):
        whole = self.engine()
        losses = self.losses(whole, 4)
        again = self.engine()
        assert self.losses(again, 2) == losses[:2]
        state = {name: array.copy() for name, array in again.state().items()}
        assert {array.dtype.name for array in state.values()} == {"float32"}
        again.restore(state, 2)
        assert self.losses(again, 2, first=3) == losses[2:]
        assert self.losses(self.engine(), 1, seed=50) != losses[:1]

    def test_the_state_has_the_tables_names_and_shapes(self):
        engine = self.engine()
        self.losses(engine, 1)
        state = engine.state()
        assert state["exp_avg.h.0.attn.c_attn.weight"].shape == (24, 72)
        assert state["exp_avg_sq.h.1.mlp.c_proj.bias"].shape == (24,)
        assert state["exp_avg.wte.weight"].shape == (97, 24)
        assert len(state) == 2 * (4 + 2 * 12)

    def test_an_adapter_is_trained_alone_and_a_restored_run_goes_on(self, tmp_path):
        adapter = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], modules_to_save=["ln_f"])
        engine = self.engine(prepare=lambda model: model.add_adapter(adapter, seed=1))
        losses = self.losses(engine, 2)
        state = {name: array.copy() for name, array in engine.state().items()}
        assert state["exp_avg.h.0.attn.c_attn.lora.A"].shape == (2, 24)
        assert state["exp_avg_sq.h.1.mlp.c_proj.lora.B"].shape == (24, 2)
        assert len(state) == 2 * (2 + 2 * 3 * 2)
        engine.save(tmp_path)
        assert not (tmp_path / "model.safetensors").exists()
        losses += self.losses(engine, 2, first=3)
        assert losses[-1] < losses[0]
        again = self.engine(prepare=lambda model: model.load_adapter(tmp_path, is_trainable=True))
        again.restore(state, 2)
        assert self.losses(again, 2, first=3) == pytest.approx(losses[2:], rel=1e-6)

    def test_bfloat16_computes_less_exactly_and_keeps_float32_weights(self, tmp_path):
        engine = self.engine(options=EngineOptions(bf16=True), **NO_DROPOUT)
        losses, exact = self.losses(engine, 2), self.losses(self.engine(**NO_DROPOUT), 2)
        assert losses != exact
        assert losses == pytest.approx(exact, rel=2e-2)
        assert {array.dtype.name for array in engine.state().values()} == {"float32"}
        engine.save(tmp_path)
        assert '"dtype": "float32"' in (tmp_path / "config.json").read_text()

    def test_gradient_checkpointing_changes_nothing(self):
        engine = self.engine(options=EngineOptions(gradient_checkpointing=True))
        assert self.losses(engine, 2) == pytest.approx(self.losses(self.engine(), 2), rel=1e-5)

    def test_runs_that_are_killed_go_on(self, tmp_path):
        script = Path(__file__).parents[1] / "kills.py"
        command = [sys.executable, str(script), str(tmp_path), self.backend, "10"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["killed"] >= 3
        for name in ("shuffled", "streamed"):
            whole, broken = tmp_path / f"{name}-whole", tmp_path / f"{name}-broken"
            weights = [(path / "model.safetensors").read_bytes() for path in (whole, broken)]
            assert weights[0] == weights[1]
            assert log_of(whole) == log_of(broken)

    def test_a_step_without_labels_has_no_loss(self):
        result = self.engine().step([], 1, 1e-2)
        assert (float(result.loss), float(result.grad_norm)) == (0, 0)

    def test_other_heads_are_trained_by_their_own_losses(self):
        folder = GOLDEN / "token_classification"
        engine = self.engine(kind="ForTokenClassification", folder=folder)
        ids = IDS % 50
        inputs = {"input_ids": ids, "labels": ids % 3}
        losses = [
            float(engine.step([MicroBatch(inputs, 1.0, number)], number, 1e-2).loss)
            for number in range(1, 9)
        ]
        assert losses[-1] < losses[0]
        assert engine.evaluate(inputs, logits=True).logits.shape[:2] == (12, 16)
