"""A `Host` without a framework: `generate` on the models of `fake_engine`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from gpt2x.generation import GenerationConfig
from gpt2x.generation.driver import Loop
from gpt2x.generation.engine import (
    DriverEngine,
    Extras,
    FusedLoop,
    Prompt,
    Prompts,
    StaticArguments,
    assemble,
)
from gpt2x.generation.host import Host
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.plan import Plan
from gpt2x.generation.strategies import Outputs, Request, Settings, Strategy
from support.fake_engine import EOS, VOCAB_SIZE


class FakeCache:
    """What a fake engine keeps of each row, reordered as a `KVCache` is."""

    length = 0

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def reorder(self, parents: np.ndarray) -> FakeCache:
        return FakeCache(self.rows[parents])


class NumpyHost(Host):
    """Runs an engine that knows its prompts; `calls` are the prompts that it was given."""

    with_length = False

    def __init__(self, engine: Any, **options: bool) -> None:
        config = SimpleNamespace(
            n_positions=64,
            vocab_size=VOCAB_SIZE,
            n_embd=4,
            n_head=1,
            n_inner=None,
            n_layer=3,
            tie_word_embeddings=True,
        )
        generation_config = GenerationConfig(eos_token_id=EOS)
        model = SimpleNamespace(config=config, generation_config=generation_config)
        super().__init__(model, self.call_of_model, NUMPY_OPS)
        for name, value in options.items():
            setattr(self, name, value)
        self.engine = engine
        self.calls: list[Prompt] = []

    def call_of_model(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any
    ) -> None:
        """Has the parameters of a model."""

    def read(self, name: str, value: Any) -> np.ndarray:
        return np.asarray(value)

    def embeddings(self, value: Any) -> np.ndarray:
        return np.asarray(value)

    def to_device(self, value: Any) -> Any:
        return value

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def draw_seed(self) -> int:
        return 7

    def open_past(self, past: Any, batch: int) -> Any:
        return past

    def _engine(self, model: Any, static: StaticArguments) -> NumpyHost:
        return self

    def fused(self, static: StaticArguments, prompts: Prompts, settings: Settings) -> Loop:
        return FusedLoop(NUMPY_OPS, self._engine, self.models, static, prompts, settings)

    def stepper(
        self, plan: Plan, static: StaticArguments, prompts: Prompts
    ) -> tuple[DriverEngine, Strategy]:
        engine = assemble(NUMPY_OPS, self._engine, self.models, static, prompts, self.keep)
        return engine, static.strategy

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        self.calls.append(prompt)
        outputs, rows = self.engine.prefill()
        return outputs, FakeCache(rows), {"attentions": (np.zeros((len(rows), 1, 99, 99)),)}

    def decode(
        self, prompt: Prompt, tokens: np.ndarray, cache: FakeCache, start: int
    ) -> tuple[Outputs, Any, Extras]:
        self.calls.append(prompt)
        outputs, rows = self.engine.decode(Request(tokens, start), cache.rows)
        return outputs, FakeCache(rows), {"attentions": (np.zeros((len(rows), 1, 99, 99)),)}
