"""Run the decoding core on a fake model, as a backend's `generate` does."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.generation import GenerationConfig, driver, results
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops
from gpt2x.generation.plan import make_plan
from gpt2x.generation.seeds import streams


def decode(
    engine_of: Any,
    prompt: np.ndarray,
    *,
    vocab_size: int,
    ops: Ops = NUMPY_OPS,
    mask: np.ndarray | None = None,
    seed: Any = 0,
    n_positions: int = 64,
    plan_options: dict[str, Any] | None = None,
    on_tokens: Any = None,
    stepwise: bool = False,
    **fields: Any,
) -> Any:
    """Decode from `prompt` [B, T] with the engine `engine_of(ops)` and the config's `fields`."""
    config = GenerationConfig(**fields)
    plan = make_plan(
        config,
        batch_size=prompt.shape[0],
        prompt_length=prompt.shape[1],
        n_positions=n_positions,
        vocab_size=vocab_size,
        **(plan_options or {}),
    )
    keys = streams(seed, plan.rows).keys(ops) if plan.samples else ()
    device_mask = None if mask is None else ops.constant(mask, "int")
    settings = plan.settings(ops, ops.constant(prompt, "int"), device_mask, keys)
    engine = engine_of(ops)
    if stepwise or on_tokens is not None:
        loop, carry = driver.StepLoop(ops, plan.strategy, engine, settings), None
        while carry is None or carry.state.running:
            carry = loop.run(carry)
            if on_tokens is not None:
                on_tokens(carry.request.tokens[:, 0])
    else:
        carry = driver.fused(ops, plan.strategy, engine, settings)
    return results.result(ops, plan, settings, carry.state)
