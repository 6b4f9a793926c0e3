"""Losses of 20 steps of a Flax model over a mesh of devices, in a process that has them.

Arguments: the mesh or "none", a checkpoint to go on from or "none", one to write or "none".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main(mesh: str, before: str, after: str) -> None:
    from gpt2x.flax import FlaxGPT2LMHeadModel
    from gpt2x.flax.training import Engine
    from gpt2x.train.engine import EngineOptions, MicroBatch, OptimizerSettings
    from support.contract.training import NO_DROPOUT
    from support.golden_data import GOLDEN

    start = GOLDEN / "plain" if before == "none" else Path(before)
    # A smaller epsilon would make much of rounding where gradients are nearly 0.
    settings = OptimizerSettings(0.9, 0.95, 1e-5, 0.1, 1.0)
    engine = Engine(
        lambda: FlaxGPT2LMHeadModel.from_pretrained(start, **dict.fromkeys(NO_DROPOUT, 0.1)),
        settings,
        EngineOptions(mesh=None if mesh == "none" else mesh),
    )
    done = 0
    if before != "none":
        done = 10
        engine.restore(load_file(start / "moments"), done)
    ids = np.random.default_rng(0).integers(3, 90, (20, 8, 16))
    losses = []
    for number in range(done, 20):
        rows = {"input_ids": ids[number], "labels": ids[number]}
        losses.append(float(engine.step([MicroBatch(rows, 1.0, number)], number + 1, 1e-2).loss))
        if number == 9 and after != "none":
            engine.save(Path(after))
            save_file(engine.state(), Path(after) / "moments")
    rows = {"input_ids": ids[0, :3], "labels": ids[0, :3]}
    losses.append(engine.evaluate(rows, logits=False).loss)
    print(json.dumps([engine.world.devices, losses]))


if __name__ == "__main__":
    main(*sys.argv[1:])
