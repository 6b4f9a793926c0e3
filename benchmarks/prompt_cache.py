"""What a prompt cache saves: 32 prompts behind one prefix of 900 tokens, with and without it.

    python benchmarks/prompt_cache.py                          # GPT-2 124M, PyTorch and Flax
    python benchmarks/prompt_cache.py --layers 2 --width 256   # a small model

Random weights; every prompt has 20 tokens of its own, and 16 more are generated, greedily. Times
are those of the processor (of all threads), the best of `--rounds` calls; `generate` has been
called before, so that nothing is compiled. "without" runs the whole prompts; "with" the same call
behind a cache of one row; "prefill" is what that cache costs, once. The texts are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x import GPT2Config

PREFIX, OWN, NEW = 900, 20, 16


def build_pt(config: GPT2Config) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Return a PyTorch model, and what turns ids into its tensors."""
    import torch

    from gpt2x import GPT2LMHeadModel

    return GPT2LMHeadModel(config).eval(), torch.as_tensor


def build_flax(config: GPT2Config) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Return a Flax model, and what turns ids into its arrays."""
    import jax.numpy as jnp

    from gpt2x import FlaxGPT2LMHeadModel

    return FlaxGPT2LMHeadModel(config), jnp.asarray


BUILDERS = {"pt": build_pt, "flax": build_flax}


def best(run: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the shortest processor time of some calls, in seconds, and the result."""
    result, seconds = run(), []
    for _ in range(rounds):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def compare(framework: str, config: GPT2Config, batch: int, rounds: int) -> str:
    """Return a line of the table."""
    model, tensor = BUILDERS[framework](config)
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, config.vocab_size, (1, PREFIX))
    own = rng.integers(0, config.vocab_size, (batch, OWN))
    whole = tensor(np.concatenate([prefix.repeat(batch, 0), own], axis=1))
    once, cache = best(lambda: model.prefill(tensor(prefix)), rounds)

    def generate(**options: Any) -> np.ndarray:
        return np.asarray(model.generate(whole, max_new_tokens=NEW, **options))

    without, expected = best(generate, rounds)
    behind, found = best(lambda: generate(past_key_values=cache), rounds)
    same = int((found == expected).all(axis=1).sum())
    return (
        f"{framework:>5} {without:9.2f} {behind:9.2f} {once:9.2f} {without / behind:8.2f} "
        f"{without / (behind + once):17.2f} {same:5}/{batch}"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--framework", choices=BUILDERS, action="append")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = GPT2Config(
        n_layer=arguments.layers,
        n_embd=arguments.width,
        n_head=arguments.width // 64,
        eos_token_id=None,
    )
    print("seconds     without      with   prefill    ratio ratio with prefill  same texts")
    for framework in arguments.framework or BUILDERS:
        print(compare(framework, config, arguments.batch, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
