"""Run `generate` on a GPU: every strategy against the CPU, and the speed of GPT-2 124M.

    PYTHONPATH=src python benchmarks/gpu.py            # the frameworks that see a GPU
    PYTHONPATH=src python benchmarks/gpu.py --no-speed

In float32 without TF32, each strategy must write on the GPU what it writes on the CPU, by
`torch.compile` too. Speeds are of random weights; the peer is transformers, in the same run, where
it is installed. The exit status is 1 if a text differs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpt2x import GPT2Config, GPT2LMHeadModel

IDS = np.random.default_rng(0).integers(1, 500, (4, 12))
MASK = np.ones_like(IDS)
MASK[0, :5] = MASK[2, :2] = 0
SMALL = GPT2Config(
    n_layer=4, n_embd=128, n_head=4, vocab_size=500, n_positions=128, initializer_range=0.3,
    bos_token_id=0, eos_token_id=499,
)  # fmt: skip
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "top_k": 40, "top_p": 0.9, "seed": 3},
    "sampling, whole vocabulary": {"do_sample": True, "top_k": 0, "seed": 3},
    "beams": {"num_beams": 4},
    "beam sampling": {"num_beams": 3, "do_sample": True, "seed": 3},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beams": {"num_beams": 4, "force_words_ids": [[7, 9], [[11], [12, 13]]]},
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "high", "repetition_penalty": 1.2},
    "prompt lookup": {"prompt_lookup_num_tokens": 5},
    "prompt lookup, sampled": {"prompt_lookup_num_tokens": 5, "do_sample": True, "seed": 3},
    "early exit": {"assistant_early_exit": 2},
    "guidance": {"guidance_scale": 1.5},
    "watermark": {"watermarking_config": {"bias": 2.0}},
    "without cache": {"use_cache": False},
}


def torch_texts() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the texts of each strategy, on the CPU and on the GPU."""
    import torch

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = GPT2LMHeadModel(SMALL).eval()
    for name, options in STRATEGIES.items():
        texts = []
        for device, compile in (("cpu", False), ("cuda", False), ("cuda", True)):
            ids, mask = (torch.tensor(array, device=device) for array in (IDS, MASK))
            text = generate(model.to(device), ids, mask, options, compile=compile)
            texts.append(text.cpu().numpy())
        yield f"PyTorch, {name}", texts[0], texts[1]
        yield f"PyTorch, compiled, {name}", texts[0], texts[2]


def jax_texts() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the same in Flax."""
    import jax

    from gpt2x.flax import FlaxGPT2LMHeadModel

    jax.config.update("jax_default_matmul_precision", "highest")
    with jax.default_device(jax.devices("cpu")[0]):
        model = FlaxGPT2LMHeadModel(SMALL, seed=0)
    params = model.params
    for name, options in STRATEGIES.items():
        texts = []
        for platform in ("cpu", "gpu"):
            device = jax.devices(platform)[0]
            with jax.default_device(device):
                placed = jax.device_put(params, device)
                texts.append(np.asarray(generate(model, IDS, MASK, options, params=placed)))
        yield f"Flax, {name}", *texts


def generate(model: Any, ids: Any, mask: Any, options: dict[str, Any], **more: Any) -> Any:
    """Continue the padded prompts by 24 tokens."""
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=24, pad_token_id=0, **options, **more
    )


def torch_speeds() -> None:
    """Print tokens per second of GPT-2 124M, and the ratio to transformers."""
    import torch

    try:
        from transformers import GPT2LMHeadModel as Peer
    except ImportError:
        Peer = None
    config = GPT2Config(eos_token_id=None)
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (1, 8, 32):
            ids = torch.tensor(np.random.default_rng(1).integers(0, 50257, (rows, 32))).cuda()
            ours = GPT2LMHeadModel(config).to("cuda", dtype).eval()
            rates = {"gpt2x": rate(ours, ids), "compiled": rate(ours, ids, compile=True)}
            if Peer is not None:
                peer = Peer(Peer.config_class()).to("cuda", dtype).eval()
                peer.generation_config.eos_token_id = None
                rates["transformers"] = rate(peer, ids)
                # On a GPU this compiles the steps.
                rates["transformers, static"] = rate(peer, ids, cache_implementation="static")
            shown = ", ".join(f"{name} {value:.0f} tokens/s" for name, value in rates.items())
            print(f"124M {dtype}, batch {rows}: {shown}", flush=True)


def rate(model: Any, ids: Any, **options: Any) -> float:
    """Return the tokens per second of greedy search, the best of three after a first call."""
    import torch

    def once() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=100, pad_token_id=0, **options)
        torch.cuda.synchronize()
        return ids.shape[0] * 100 / (time.perf_counter() - started)

    once()
    return max(once() for _ in range(3))


def checks() -> Iterator[Callable[[], Iterator[tuple[str, np.ndarray, np.ndarray]]]]:
    """Yield the check of each framework that sees a GPU."""
    try:
        import torch

        if torch.cuda.is_available():
            yield torch_texts
    except ImportError:
        pass
    try:
        import jax

        if any(device.platform == "gpu" for device in jax.devices()):
            yield jax_texts
    except ImportError:
        pass


def main() -> int:
    """Parse the command line, run, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-speed", action="store_true", help="compare the texts only")
    arguments = parser.parse_args()
    different = 0
    for check in checks():
        for name, expected, found in check():
            same = np.array_equal(expected, found)
            different += not same
            print(f"{'same' if same else 'DIFFERENT':9} {name}", flush=True)
        if check is torch_texts and not arguments.no_speed:
            torch_speeds()
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
