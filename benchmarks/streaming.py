"""What streaming costs in TensorFlow and Flax: against one call for the whole text, in one run.

    python benchmarks/streaming.py    # GPT-2 124M
    python benchmarks/streaming.py --layers 2 --width 64 --vocabulary 1000    # a tiny model

Random weights, a prompt of 16 tokens, 32 new ones, greedily; everything is compiled before. The
ways take turns, and the best turn of each counts. Printed are ratios to the call without streaming,
of processor time and of wall-clock time, and the part of that call's time after which the first
token comes. "chunks of n" have up to n tokens, as long as they are quick (`QUICK`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x import GPT2Config
from gpt2x.generation.generate import steps

PROMPT, NEW = 16, 32


def build_flax(config: GPT2Config) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """Return a Flax model's `generate`, and what makes its host."""
    from gpt2x import FlaxGPT2LMHeadModel

    model = FlaxGPT2LMHeadModel(config)
    return model.generate, model.generation_host


def build_tf(
    config: GPT2Config, jit_compile: bool = False
) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """Return the same of a TensorFlow model."""
    from gpt2x import TFGPT2LMHeadModel

    model = TFGPT2LMHeadModel(config)
    return (
        lambda ids, **options: model.generate(ids, jit_compile=jit_compile, **options),
        lambda: model.generation_host(jit_compile),
    )


BUILDERS: dict[str, Callable[[GPT2Config], Any]] = {
    "flax": build_flax,
    "tf": build_tf,
    "tf-xla": lambda config: build_tf(config, jit_compile=True),
}


def measured(run: Callable[[], float]) -> np.ndarray:
    """Return seconds of the processor, of the wall clock, and up to what `run` returns."""
    processor, wall = time.process_time(), time.perf_counter()
    first = run()
    end = time.perf_counter()
    return np.array([time.process_time() - processor, end - wall, first - wall])


def compare(backend: str, config: GPT2Config, chunks: list[int], rounds: int) -> None:
    """Print a table."""
    generate, host = BUILDERS[backend](config)
    ids = np.arange(1, PROMPT + 1, dtype=np.int32)[None]

    def whole() -> float:
        np.asarray(generate(ids, max_new_tokens=NEW))
        return time.perf_counter()

    def streamed(chunk: int) -> float:
        kwargs = {"input_ids": ids, "max_new_tokens": NEW}
        first, *_ = [time.perf_counter() for _ in steps(host(), chunk=chunk, kwargs=kwargs)]
        return first

    ways: dict[str, Callable[[], float]] = {"whole": whole}
    ways |= {f"chunks of {chunk}": lambda chunk=chunk: streamed(chunk) for chunk in chunks}
    for run in ways.values():
        run()
    turns = [[measured(run) for run in ways.values()] for _ in range(rounds)]
    best = np.min(turns, axis=0)  # [ways, 3]
    print(f"{backend:16} processor   wall  first")
    for way, (processor, wall, first) in zip(ways, best / best[0, [0, 1, 1]], strict=True):
        print(f"{way:16}{processor:10.2f} {wall:6.2f} {first:6.2f}", flush=True)


def main() -> None:
    """Measure every backend that the arguments allow."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=BUILDERS, action="append")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    config = GPT2Config(
        vocab_size=arguments.vocabulary,
        n_layer=arguments.layers,
        n_embd=arguments.width,
        n_head=max(arguments.width // 64, 1),
        eos_token_id=None,
    )
    for backend in arguments.backend or BUILDERS:
        compare(backend, config, arguments.chunks, arguments.rounds)


if __name__ == "__main__":
    main()
