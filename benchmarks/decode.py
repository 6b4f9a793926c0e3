"""Decoding speed of GPT-2 124M in PyTorch: gpt2x against transformers, measured in one run.

    python benchmarks/decode.py                  # needs gpt2x[pt] and transformers
    python benchmarks/decode.py --dtype bfloat16 --batch 1 --rounds 5

Both have the same random weights and write 128 tokens after a prompt of 32. They take turns, and
the ratio is the median over the turns, so that other load on the machine affects both equally.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
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
) -> tuple[float, float, float]:
    """Return both speeds, in tokens a second, and the median of their ratio."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50256, (batch, prompt), generator=generator)
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": new,
        "min_new_tokens": new,
        "pad_token_id": 50256,
        **MODES[mode],
    }

    def run(model: Any) -> Callable[[], Any]:
        return lambda: model.generate(ids, **options)

    for model in (ours, theirs):
        model.generate(ids, **{**options, "max_new_tokens": 4, "min_new_tokens": 4})
    times = [(seconds(run(ours), clock), seconds(run(theirs), clock)) for _ in range(rounds)]
    ours_best, theirs_best = (min(column) for column in zip(*times, strict=True))
    ratio = statistics.median(theirs_time / ours_time for ours_time, theirs_time in times)
    return batch * new / ours_best, batch * new / theirs_best, ratio


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

    print(f"{'dtype':9} {'batch':>5} {'mode':7} {'gpt2x':>9} {'transformers':>13} {'ratio':>6}")
    for dtype in dtypes:
        ours, theirs = build_models(getattr(torch, dtype), arguments.layers)
        for batch, mode in itertools.product(batches, modes):
            mine, peer, ratio = compare(
                ours,
                theirs,
                batch=batch,
                mode=mode,
                prompt=arguments.prompt,
                new=arguments.new,
                rounds=arguments.rounds,
                clock=time.process_time if arguments.cpu_time else time.perf_counter,
            )
            print(f"{dtype:9} {batch:5} {mode:7} {mine:7.1f}/s {peer:11.1f}/s {ratio:6.2f}")


if __name__ == "__main__":
    main()
