"""Decoding speed of GPT-2 124M on JAX: gpt2x against transformers' Flax and KerasHub, in one run.

    python benchmarks/decode_flax.py                                # gpt2x alone
    python benchmarks/decode_flax.py --peer transformers=PYTHON --peer keras_hub=PYTHON

PYTHON is the interpreter of a peer's environment: transformers 4.57 with Flax, KerasHub with JAX.
Each system runs in its own process. The systems take turns, and the best turn of each counts, since
other load on the machine disturbed it least. Random weights, a prompt of 32 tokens, greedy search,
as users call the libraries: `model.generate`, compiled by an earlier call.

Three speeds are printed, and the seconds of the first call (100 tokens), which compiles. *100* and
*224*: that many new tokens, divided by the seconds of the whole call of `generate` (transformers
traces its loop in every call). *loop*: the steps alone, without prefill and tracing, computed from
the difference of the two calls.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

PROMPT = 32
SHORT, LONG = 100, 224  # new tokens; gpt2x's cache is 256 long for both
SYSTEMS = ("gpt2x", "transformers", "keras_hub")


def build_gpt2x(layers: int, dtype: str, batch: int) -> Callable[[int], Any]:
    """Return a function that generates a given number of tokens with gpt2x."""
    import jax
    import numpy as np

    from gpt2x import FlaxGPT2LMHeadModel, GPT2Config

    config = GPT2Config(n_layer=layers, eos_token_id=None)
    model = FlaxGPT2LMHeadModel(config, dtype=dtype, param_dtype=dtype)
    jax.block_until_ready(jax.tree.leaves(model))  # the first call must not wait for the weights
    ids = np.full((batch, PROMPT), 7, np.int32)
    return lambda new: model.generate(ids, max_new_tokens=new).sequences.block_until_ready()


def build_transformers(layers: int, dtype: str, batch: int) -> Callable[[int], Any]:
    """Return the same with transformers' Flax model."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    config = GPT2Config(n_layer=layers, pad_token_id=0)  # without an eos it fails
    model = FlaxGPT2LMHeadModel(config, dtype=jnp.dtype(dtype))
    params = model.to_bf16(model.params) if dtype == "bfloat16" else model.params
    jax.block_until_ready(params)
    ids = np.full((batch, PROMPT), 7, np.int32)

    def run(new: int) -> Any:
        output = model.generate(ids, params=params, max_new_tokens=new, do_sample=False)
        return output.sequences.block_until_ready()

    return run


def build_keras_hub(layers: int, dtype: str, batch: int) -> Callable[[int], Any]:
    """Return the same with KerasHub on JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.GPT2Backbone(
        50257, layers, 12, 768, 3072, max_sequence_length=1024, dtype=dtype
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    jax.block_until_ready([weight.value for weight in model.weights])
    width = PROMPT + LONG

    def run(new: int) -> Any:
        # Its loop runs over the positions where the mask is 0.
        ids = np.full((batch, width), 7, np.int32)
        mask = np.arange(width)[None] < width - new
        mask = np.broadcast_to(mask, ids.shape).astype(np.int32)
        inputs = {"token_ids": ids, "padding_mask": mask}
        return model.generate(inputs, stop_token_ids=None)

    return run


BUILDERS = {
    "gpt2x": build_gpt2x,
    "transformers": build_transformers,
    "keras_hub": build_keras_hub,
}


def serve(system: str, layers: int, dtype: str, batch: int) -> None:
    """Time a decode for each line of standard input; first print the seconds of the first call."""
    run = BUILDERS[system](layers, dtype, batch)

    def seconds(new: int) -> float:
        start = time.perf_counter()
        run(new)
        return time.perf_counter() - start

    first = seconds(SHORT)
    seconds(LONG)
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        print(json.dumps([seconds(SHORT), seconds(LONG)]), flush=True)


class Worker:
    """A system that runs in its own process."""

    def __init__(self, system: str, python: str, layers: int, dtype: str, batch: int) -> None:
        arguments = [__file__, "--serve", system, "--layers", layers, "--dtype", dtype]
        self.process = subprocess.Popen(
            [python, *map(str, arguments), "--batch", str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.batch = batch
        self.first_call = self._read()
        self.short = self.long = float("inf")  # the fewest seconds so far

    def _read(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit("a system ended early; its error is printed above")
        return json.loads(line)

    def measure(self) -> None:
        """Take a turn."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        short, long = self._read()
        self.short, self.long = min(self.short, short), min(self.long, long)

    @property
    def speeds(self) -> tuple[float, float, float]:
        """Tokens per second of a short call, of a long one, and of the loop alone."""
        return (
            SHORT * self.batch / self.short,
            LONG * self.batch / self.long,
            (LONG - SHORT) * self.batch / (self.long - self.short),
        )

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def compare(
    pythons: dict[str, str], layers: int, dtypes: list[str], batch: int, rounds: int
) -> None:
    """Print the speed of every system, and how many times as fast gpt2x is."""
    workers = {
        (system, dtype): Worker(system, python, layers, dtype, batch)
        for dtype in dtypes
        for system, python in pythons.items()
    }
    for _ in range(rounds):
        for worker in workers.values():
            worker.measure()
    base = "gpt2x", dtypes[0]
    print(f"{f'batch {batch}, tokens/s':45}{SHORT:8}{LONG:8}    loop  first call")
    for key, worker in workers.items():
        print(_row(" ".join(key), worker.speeds) + f"{worker.first_call:10.1f} s")
    for key in workers:
        one, other = (("gpt2x", key[1]), key) if key[0] != "gpt2x" else (key, base)
        if one != other:
            speeds = zip(workers[one].speeds, workers[other].speeds, strict=True)
            print(_row(f"{' '.join(one)} / {' '.join(other)}", [x / y for x, y in speeds]))
    sys.stdout.flush()
    for worker in workers.values():
        worker.close()


def _row(label: str, numbers: Iterable[float]) -> str:
    return f"{label:45}" + "".join(f"{number:8.2f}" for number in numbers)


def main() -> None:
    """Run the benchmark, or one system of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", action="append", default=[], metavar="SYSTEM=PYTHON")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtypes, batches = options.dtype or ["float32", "bfloat16"], options.batch or [1, 8]
    if options.serve:
        serve(options.serve, options.layers, dtypes[0], batches[0])
        return
    pythons = {"gpt2x": sys.executable, **dict(peer.split("=", 1) for peer in options.peer)}
    for batch in batches:
        compare(pythons, options.layers, dtypes, batch, options.rounds)


if __name__ == "__main__":
    main()
