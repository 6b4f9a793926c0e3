"""Decoding speed of GPT-2 124M in PyTorch: gpt2x against transformers, measured in one run.

    python benchmarks/decode.py                  # needs gpt2x[pt] and transformers
    python benchmarks/decode.py --dtype bfloat16 --batch 1 --rounds 5
    python benchmarks/decode.py --compile        # steps compiled by torch.compile, in both

Both have the same random weights and write 128 tokens after a prompt of 32. They take turns, and
the ratio is the median over the turns, so that other load on the machine affects both equally. With
--compile there is a third one, gpt2x as it is, and a second ratio, to that.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True, "top_k": 50, "top_p": 0.9},
}
DTYPES = ("float32", "bfloat16")
BATCHES = (1, 8)


def build_models(dtype: torch.dtype, layers: int) -> tuple[Any, Any]:
    """Return gpt2x's and transformers' GPT-2 with the same random weights."""
    import transformers

    import gpt2x

    torch.manual_seed(0)
    sizes = {"n_layer": layers}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).to(dtype).eval()
    ours = gpt2x.GPT2LMHeadModel(gpt2x.GPT2Config(**sizes)).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return the duration of a call, measured by `clock`."""
    start = clock()
    run()
    return clock() - start


def compare(
    ours: Any,
    theirs: Any,
    *,
    batch: int,
    mode: str,
    prompt: int,
    new: int,
    rounds: int,
    clock: Callable[[], float],
    compiles: bool,
) -> tuple[list[float], list[float]]:
    """Return the speeds, in tokens a second, and the median ratios of times to the first.

    Of gpt2x, of transformers and, if `compiles` (both), of gpt2x as it is.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50256, (batch, prompt), generator=generator)
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": new,
        "min_new_tokens": new,
        "pad_token_id": 50256,
        **MODES[mode],
    }
    runs = [(ours, {}), (theirs, {})]
    if compiles:
        runs = [(ours, {"compile": True}), (theirs, static_options()), (ours, {})]

    for model, more in runs:
        # What is compiled depends on the length.
        first = {} if compiles else {"max_new_tokens": 4, "min_new_tokens": 4}
        model.generate(ids, **{**options, **first, **more})
    times = [
        [seconds(partial(model.generate, ids, **options, **more), clock) for model, more in runs]
        for _ in range(rounds)
    ]
    speeds = [batch * new / min(column) for column in zip(*times, strict=True)]
    ratios = [
        statistics.median(turn[peer] / turn[0] for turn in times) for peer in range(1, len(runs))
    ]
    return speeds, ratios


def static_options() -> dict[str, Any]:
    """Return what lets transformers compile its steps, on a CPU too."""
    import transformers

    config = transformers.CompileConfig()
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def main() -> None:
    """Measure every combination that the arguments allow, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--batch", type=int, help=f"default: {BATCHES}")
    parser.add_argument("--mode", choices=MODES, help="default: all")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--compile", action="store_true", help="compile the steps of both")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure processor time, on a busy machine (with --threads 1)",
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dtypes = [arguments.dtype] if arguments.dtype else list(DTYPES)
    batches = [arguments.batch] if arguments.batch else list(BATCHES)
    modes = [arguments.mode] if arguments.mode else list(MODES)

    names = ["gpt2x", "transformers", *(["not compiled"] if arguments.compile else [])]
    columns = " ".join(f"{name:>14}" for name in names)
    print(f"{'dtype':9} {'batch':>5} {'mode':7} {columns} ratios")
    for dtype in dtypes:
        ours, theirs = build_models(getattr(torch, dtype), arguments.layers)
        for batch, mode in itertools.product(batches, modes):
            speeds, ratios = compare(
                ours,
                theirs,
                batch=batch,
                mode=mode,
                prompt=arguments.prompt,
                new=arguments.new,
                rounds=arguments.rounds,
                clock=time.process_time if arguments.cpu_time else time.perf_counter,
                compiles=arguments.compile,
            )
            shown = " ".join(f"{speed:12.1f}/s" for speed in speeds)
            print(f"{dtype:9} {batch:5} {mode:7} {shown}", *(f"{ratio:6.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
