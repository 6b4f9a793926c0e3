"""Runs of training that are killed at drawn moments, in processes that fork from one.

The process imports the libraries once; each run is a fork of it, so that a kill costs a run and not
an import. Run as a script: a folder, a backend, and how many kills.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

NAMES = ("shuffled", "streamed")
ARGUMENTS = {
    "config_overrides": "n_layer=1,n_embd=16,n_head=2,n_positions=16,resid_pdrop=0.2",
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 18,
    "save_steps": 3,
    "logging_steps": 4,
    "eval_steps": 8,
    "weight_decay": 0.1,
}


def main(folder: Path, backend: str, kills: int) -> None:
    """Train without a break, and with kills; print what each run left, as JSON."""
    from gpt2x import EMBEDDED_MODEL, backends
    from gpt2x.train.run import train

    # A run that goes on need not compile again.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    backends.load(backend, module="training")
    if find_spec("matplotlib"):
        import_module("matplotlib.figure")
    (folder / "text.txt").write_text("In the beginning God created the heaven. " * 60)
    arguments = ARGUMENTS | {
        "backend": backend,
        "train_file": str(folder / "text.txt"),
        "validation_file": str(folder / "text.txt"),
        "tokenizer_name": str(EMBEDDED_MODEL),
    }

    def start(name: str) -> int:
        child = os.fork()
        if child == 0:
            streaming = {"streaming": True} if name.startswith("streamed") else {}
            train(output_dir=str(folder / name), resume=True, **arguments, **streaming)
            os._exit(0)
        return child

    def finish(child: int) -> bool:
        return os.waitpid(child, 0)[1] == 0

    rng, killed, seconds = np.random.default_rng(5), 0, math.inf
    for name in NAMES:
        began = time.monotonic()
        assert finish(start(f"{name}-whole"))
        seconds = min(seconds, time.monotonic() - began)  # the first may compile for all others
    for name in NAMES:
        for _ in range(kills // 2):
            child = start(f"{name}-broken")
            time.sleep(rng.uniform(0.1, 0.6) * seconds)
            os.kill(child, signal.SIGKILL)
            killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        assert finish(start(f"{name}-broken"))
    print(json.dumps({"killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
