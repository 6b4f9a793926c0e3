"""Diverse beam search in PyTorch, from transformers 4.49.0, the last release that has it itself."""

from pathlib import Path
from typing import Any

from transformers import GPT2LMHeadModel

from .files import Case, write_group
from .generation import ENDS, LEFT, LONG_PROMPTS, PROMPTS, generation_case
from .models import load_model

SCORES = ("sequences_scores",)
GROUPS: dict[str, dict[str, Any]] = {
    "two_groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.6},
    "groups_of_one": {
        "num_beams": 3,
        "num_beam_groups": 3,
        "diversity_penalty": 1.5,
        "num_return_sequences": 3,
    },
    "three_groups_of_two": {
        "num_beams": 6,
        "num_beam_groups": 3,
        "diversity_penalty": 0.8,
        "num_return_sequences": 6,
        **ENDS,
    },
    "early_stopping": {"early_stopping": True, "length_penalty": 2.0},
    "early_stopping_never": {"early_stopping": "never", "length_penalty": 0.5},
    "short_texts": {"length_penalty": -1.0},
    "several_eos": {"eos_token_id": [94, 29, 11, 35], "early_stopping": True},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram": {"no_repeat_ngram_size": 2, "min_new_tokens": 9},
    "biased": {
        "sequence_bias": [[[94], -3.5], [[11, 35], 2.5]],
        "renormalize_logits": True,
        "suppress_tokens": [4],
    },
    "forced_eos": {"forced_eos_token_id": 51, "max_new_tokens": 9, "eos_token_id": 51},
}
# What the cases share that say nothing else.
TWO_GROUPS = {
    "num_beams": 4,
    "num_beam_groups": 2,
    "diversity_penalty": 0.6,
    "num_return_sequences": 3,
    **ENDS,
}


def write_hypotheses(out: Path) -> None:
    """Write the groups of the strategies that keep lists of hypotheses."""
    plain = load_model(out, "plain")
    write_group(out / "plain/group_beams.npz", group_cases(plain))


def group_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Diverse beam search: groups, endings, processors and padding.

    `beam_indices` are left out: transformers counts the beams of each group from 0.
    """
    cases = {
        name: generation_case(model, PROMPTS, outputs=SCORES, **{**TWO_GROUPS, **settings})
        for name, settings in GROUPS.items()
    }
    cases["scores"] = generation_case(
        model, PROMPTS, outputs=(*SCORES, "scores", "logits"), **TWO_GROUPS, max_new_tokens=10
    )
    cases["left_padded"] = generation_case(model, LONG_PROMPTS, LEFT, outputs=SCORES, **TWO_GROUPS)
    return cases
