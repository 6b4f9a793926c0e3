"""What prompt lookup saves in PyTorch: calls and time of GPT-2 124M, against plain greedy search.

    python benchmarks/speculation.py
    python benchmarks/speculation.py --drafts 4 --threads 2

The weights are random; such a model soon repeats itself, which is what a lookup finds. Prompts are
a passage three times over. Plain search and lookup write 96 tokens in turns, and the ratio is the
median over the turns, by processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from gpt2x import GPT2Config, GPT2LMHeadModel


def run(
    model: Any, prompt: torch.Tensor, new: int, **options: Any
) -> tuple[torch.Tensor, float, int]:
    """Return the text, the processor time in seconds, and the calls of the model."""
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    start = time.process_time()
    text = model.generate(prompt, max_new_tokens=new, eos_token_id=None, pad_token_id=0, **options)
    seconds = time.process_time() - start
    hook.remove()
    return text, seconds, len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=arguments.layers)).eval()
    for batch in arguments.batch:
        prompt = torch.randint(0, 50257, (batch, 16)).repeat(1, 3)
        times, calls = [], (0, 0)
        for _ in range(arguments.rounds):
            plain, plain_seconds, plain_calls = run(model, prompt, arguments.new)
            found, seconds, found_calls = run(
                model, prompt, arguments.new, prompt_lookup_num_tokens=arguments.drafts
            )
            assert torch.equal(plain, found)
            times.append(plain_seconds / seconds)
            calls = (plain_calls, found_calls)
        print(
            f"batch {batch}: {calls[0]} calls against {calls[1]} with lookup "
            f"({calls[0] / calls[1]:.2f} times); "
            f"plain took {statistics.median(times):.2f} times as long"
        )


if __name__ == "__main__":
    main()
