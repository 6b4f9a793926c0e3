"""Classifier-free guidance: texts that PyTorch's greedy search writes beside negative prompts.

Negative prompts are not padded: transformers 4 counts the positions of padding.
"""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import GPT2LMHeadModel

from .files import Case, write_group
from .generation import LEFT, LONG_PROMPTS, PROMPTS, generation_case, rows_alone
from .models import load_model, random_ids

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    # The length of the negative prompts (0: the last token of each prompt), and the options.
    "last_token": (0, {"guidance_scale": 1.5}),
    "towards": (0, {"guidance_scale": 0.4}),
    "unconditional": (3, {"guidance_scale": 0}),
    "shorter": (3, {"guidance_scale": 2.0}),
    "longer": (8, {"guidance_scale": 1.4, "eos_token_id": 94}),
    "without_cache": (4, {"guidance_scale": 1.7, "use_cache": False}),
    "one_candidate": (8, {"guidance_scale": 1.4, "do_sample": True, "top_k": 1}),
    "with_processors": (
        8,
        {"guidance_scale": 1.6, "repetition_penalty": 1.3, "suppress_tokens": [94, 11]},
    ),
}
SCORED = {"shorter": ("scores", "logits")}


def write_guidance(out: Path) -> None:
    """The texts of each case."""
    model = load_model(out, "plain")
    cases = {name: guided_case(model, name, *case) for name, case in CASES.items()}
    cases["left_padded"] = rows_alone(model, LONG_PROMPTS, LEFT, guidance_scale=1.5)
    plain = generation_case(model, PROMPTS)
    if any(
        np.array_equal(case.outputs["sequences"], plain.outputs["sequences"])
        for case in cases.values()
    ):
        raise RuntimeError("guidance changes nothing; choose another scale")
    write_group(out / "plain/guidance.npz", cases)


def guided_case(model: GPT2LMHeadModel, name: str, length: int, options: dict[str, Any]) -> Case:
    """Generate beside negative prompts of a length."""
    extra = {"negative_prompt_ids": random_ids(230 + length, 3, length)} if length else {}
    return generation_case(model, PROMPTS, extra=extra, outputs=SCORED.get(name, ()), **options)
