"""Training against PyTorch's: the same losses from the same weights and rows, and one from where
the other stopped.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from gpt2x import backends
from gpt2x.train.engine import EngineOptions, MicroBatch, OptimizerSettings
from gpt2x.weights.table import Head
from support.parity_models import save_reference

OTHERS = [
    name
    for name in ("tf", "flax")
    if backends.is_installed(name) and find_spec(f"gpt2x.{name}.training")
]
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PLAIN = OptimizerSettings(0.9, 0.999, 1e-8, weight_decay=0.0, max_grad_norm=0.0)
FULL = OptimizerSettings(0.9, 0.95, 1e-8, weight_decay=0.1, max_grad_norm=0.5)
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3}
RUNS = {
    "plain": (PLAIN, 1, NO_DROPOUT),
    "accumulated, decayed, clipped and with dropout": (FULL, 3, DROPOUT),
}


def engine(name: str, folder: Path, settings: OptimizerSettings, **options: bool) -> Any:
    """Return the engine of a backend for the model in a folder."""
    kind = getattr(backends.load(name), f"{backends.get(name).prefix}LMHeadModel")
    load = partial(kind.from_pretrained, folder)
    return backends.load(name, module="training").Engine(
        load, settings, EngineOptions(same_dropout=True, **options)
    )


def micro_batches(step: int, parts: int) -> list[MicroBatch]:
    """Return the rows of a step, whose parts have different numbers of labels."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, 58, (parts, 4, 12))
    labels = np.where(rng.random(ids.shape) < 0.2, -100, ids)
    counts = (labels[..., 1:] != -100).sum(axis=(1, 2))
    return [
        MicroBatch({"input_ids": one, "labels": other}, count / counts.sum(), step)
        for one, other, count in zip(ids, labels, counts, strict=True)
    ]


def run(engine: Any, parts: int, steps: range) -> np.ndarray:
    """Make steps, with a rate that falls; return their losses and the gradients' norms."""
    results = [engine.step(micro_batches(step, parts), step, 1e-2 / step**0.5) for step in steps]
    return np.array([[float(result.loss), float(result.grad_norm)] for result in results])


@pytest.mark.parametrize("settings", RUNS)
@pytest.mark.parametrize("name", OTHERS)
def test_fifty_steps_have_the_losses_of_pytorch(name: str, settings: str, tmp_path: Path):
    optimizer, parts, rates = RUNS[settings]
    save_reference(Head.LM, tmp_path, **rates)
    reference = engine("pt", tmp_path, optimizer)
    expected = run(reference, parts, range(1, 51))
    assert expected[-10:, 0].mean() < 0.9 * expected[:10, 0].mean()
    found = engine(name, tmp_path, optimizer)
    np.testing.assert_allclose(run(found, parts, range(1, 51)), expected, rtol=1e-3)
    # Each goes on from what the other leaves, and computes its blocks twice.
    for number, (one, other) in enumerate([(reference, name), (found, "pt")]):
        folder = tmp_path / str(number)
        one.save(folder)
        resumed = engine(other, folder, optimizer, gradient_checkpointing=True)
        resumed.restore({name: array.copy() for name, array in one.state().items()}, 50)
        expected = run(one, parts, range(51, 54))
        np.testing.assert_allclose(run(resumed, parts, range(51, 54)), expected, rtol=1e-4)
