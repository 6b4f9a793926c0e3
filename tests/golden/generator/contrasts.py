"""Contrastive search and DoLa, as transformers 4.49.0 does them in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import Case, write_group
from .forward import padded_mask
from .generation import LEFT, LONG_PROMPTS, PROMPTS, generation_case
from .models import PAD, load_model, random_ids

SCORED = ("scores", "logits")
SEARCH: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4}
SEARCHES: dict[str, dict[str, Any]] = {
    "alpha_0.6_k_4": SEARCH,
    "alpha_0.3_k_6": {"penalty_alpha": 0.3, "top_k": 6},
    "alpha_0.9_k_2": {"penalty_alpha": 0.9, "top_k": 2},
    "alpha_1_k_8": {"penalty_alpha": 1.0, "top_k": 8},
    "low_memory": {**SEARCH, "low_memory": False},
    "processors": {
        **SEARCH,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [94, 11],
    },
    "one_new_token": {**SEARCH, "max_new_tokens": 1},
}
CONTRASTS: dict[str, dict[str, Any]] = {
    "low": {"dola_layers": "low"},
    "high": {"dola_layers": "high"},
    "list": {"dola_layers": [1, 3, 6]},
    "one_layer": {"dola_layers": [4]},
    "beyond": {"dola_layers": [0, 5, 40]},
    "repetition_penalty": {"dola_layers": "high", "repetition_penalty": 1.2},
    "processors": {
        "dola_layers": "low",
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 8,
    },
}


def write_contrasts(out: Path) -> None:
    """Every case; each is also run with other arithmetic, to rule out near ties."""
    for folder in ("plain", "untied"):
        write_group(out / folder / "contrastive.npz", contrastive_cases(load_model(out, folder)))
    for folder in ("deep", "deep_untied"):
        write_group(out / folder / "dola.npz", dola_cases(load_model(out, folder)))
    for folder in ("plain", "untied"):
        cases = {
            name: distinct(alone(load_model(out, folder), PROMPTS, dola_layers=name), 4)
            for name in ("low", "high")
            if (folder, name) != ("untied", "low")
        }
        write_group(out / folder / "dola.npz", cases)


def contrastive_cases(model: Any) -> dict[str, Case]:
    """Contrastive search in whole and padded batches, with ends and processors."""
    cases = {
        name: generation_case(model, PROMPTS, outputs=SCORED, **options)
        for name, options in SEARCHES.items()
    }
    for name in ("alpha_0.6_k_4", "alpha_0.3_k_6", "alpha_1_k_8"):
        distinct(cases[name], 10)
    # An id that a text holds ends it, here and in none of the others.
    text = cases["alpha_0.6_k_4"].outputs["sequences"][0, PROMPTS.shape[1] :]
    ends = [int(text[7]), int(text[12])]
    cases["eos"] = generation_case(model, PROMPTS, eos_token_id=ends, **SEARCH)
    cases["left_padded"] = generation_case(model, LONG_PROMPTS, LEFT, **SEARCH)
    cases["left_padded_eos"] = generation_case(
        model, LONG_PROMPTS, LEFT, eos_token_id=ends, penalty_alpha=0.4, top_k=5
    )
    last = {"max_new_tokens": None, "max_length": model.config.n_positions}
    cases["to_last_position"] = generation_case(model, LONG_PROMPTS[:1], **SEARCH, **last)
    return cases


def dola_cases(model: Any) -> dict[str, Case]:
    """DoLa row by row, since transformers chooses one layer for all rows of a batch."""
    prompts, long = random_ids(230, 3, 5, below=80), random_ids(231, 3, 9, below=80)
    cases = {name: alone(model, prompts, **options) for name, options in CONTRASTS.items()}
    distinct(cases["high"], 4)
    distinct(cases["repetition_penalty"], 10)
    one = prompts[:1]
    cases["scores"] = generation_case(model, one, outputs=SCORED, dola_layers=[1, 3, 6])
    mask = padded_mask([9, 6, 2], 9, "left")
    cases["left_padded"] = alone(model, long, mask, dola_layers="high")
    text = cases["repetition_penalty"].outputs["sequences"][0, prompts.shape[1] :]
    cases["eos"] = alone(model, prompts, eos_token_id=int(text[6]), **CONTRASTS["processors"])
    cases["one_candidate"] = generation_case(
        model, one, dola_layers="high", repetition_penalty=1.2, do_sample=True, top_k=1
    )
    return cases


def alone(
    model: Any, input_ids: torch.Tensor, mask: torch.Tensor | None = None, **generate: Any
) -> Case:
    """A batch, with what transformers writes for each row given alone, without its padding."""
    mask = torch.ones_like(input_ids) if mask is None else mask
    cases = [
        generation_case(model, row[seen][None], **generate)
        for row, seen in zip(input_ids, mask.bool(), strict=True)
    ]
    padded = torch.where(mask.bool(), input_ids, PAD).numpy()
    written = [case.outputs["sequences"][0, case.inputs["input_ids"].shape[1] :] for case in cases]
    width = max(map(len, written))
    new = [np.pad(row, (0, width - len(row)), constant_values=PAD) for row in written]
    return Case(
        settings=cases[0].settings,
        inputs={"input_ids": padded, "attention_mask": mask.numpy()},
        outputs={"sequences": np.concatenate([padded, np.stack(new)], axis=1)},
    )


def distinct(case: Case, count: int) -> Case:
    """The case; raises if no row holds `count` different new tokens."""
    texts = case.outputs["sequences"]
    found = max(len(np.unique(row)) for row in texts)
    if found < count:
        raise RuntimeError(f"a text holds {found} tokens; change the inputs: {case.settings}")
    return case
