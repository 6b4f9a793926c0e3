"""Diverse and constrained beam search in PyTorch.

From transformers 4.49.0: the last release that has them in its library.
"""

from pathlib import Path
from typing import Any

from transformers import GPT2LMHeadModel

from .files import Case, write_group
from .generation import BEAM_OUTPUTS, ENDS, LEFT, LONG_PROMPTS, PROMPTS, generation_case
from .models import load_model

SCORES = ("sequences_scores",)
# Ids that the model does not write by itself.
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "phrase": {"force_words_ids": [[40, 71, 13]]},
    "two_phrases": {"force_words_ids": [[40, 71, 13], [58, 20]], "num_return_sequences": 2},
    "shared_beginnings": {
        "force_words_ids": [[[40, 71, 13], [40, 20], [40, 71, 58, 9]], [[58, 20], [17]]],
    },
    # Its second token is its first one too: a text that breaks it off starts again.
    "restarts": {"force_words_ids": [[33, 33, 60, 33], [60]], "num_beams": 8},
    "the_same_twice": {"force_words_ids": [[44, 8], [44, 8]], "num_return_sequences": 3},
    "one_token_each": {"force_words_ids": [[21], [43], [65], [87]], "num_beams": 3},
    "early_stopping": {"early_stopping": True, "length_penalty": 2.0},
    "early_stopping_never": {"early_stopping": "never", "length_penalty": 0.5},
    "short_texts": {"length_penalty": -1.0},
    "several_eos": {"eos_token_id": [94, 29, 11, 35], "early_stopping": True},
    "ends_early": {
        "force_words_ids": [[21], [[43, 65], [60]]],
        "eos_token_id": [35, 83, 68, 61, 34, 11, 8],
        "early_stopping": True,
    },
    "too_short_for_all": {
        "force_words_ids": [[40, 71, 13, 5, 66], [58, 20, 77]],
        "max_new_tokens": 5,
        "eos_token_id": None,
    },
    "no_eos": {"eos_token_id": None, "max_new_tokens": 12},
    "repetition_penalty": {"repetition_penalty": 1.4, "min_new_tokens": 11},
    "no_repeat_ngram": {"no_repeat_ngram_size": 2},
    "biased": {
        "sequence_bias": [[[94], -3.5], [[11, 35], 2.5]],
        "renormalize_logits": True,
        "suppress_tokens": [4],
    },
}
# What the cases share that say nothing else.
CONSTRAINED = {
    "num_beams": 5,
    "force_words_ids": [[40, 71], [[58, 20, 9], [58, 33]]],
    **ENDS,
}
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
    write_group(out / "plain/constrained_beams.npz", constrained_cases(plain))


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


def constrained_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Constrained beam search: phrases, choices of them, endings, processors and padding."""
    cases = {
        name: constrained_case(model, PROMPTS, **settings) for name, settings in CONSTRAINTS.items()
    }
    # The first prompt ends with the beginning of a phrase.
    begun = {"force_words_ids": [[int(PROMPTS[0, -1]), 71, 13], [58, 20]]}
    cases["begun_in_the_prompt"] = constrained_case(model, PROMPTS, **begun)
    cases["left_padded"] = constrained_case(model, LONG_PROMPTS, LEFT)
    return cases


def constrained_case(model: GPT2LMHeadModel, *prompt: Any, **settings: Any) -> Case:
    """One case; beam indices without the columns that transformers adds for the prompt.

    Where a text does not fulfil its constraints transformers has no beam indices, and fails if it
    has those of others; then the case holds its sequences alone.
    """
    settings = {**CONSTRAINED, **settings}
    try:
        case = generation_case(model, *prompt, outputs=BEAM_OUTPUTS, **settings)
    except (KeyError, RuntimeError):
        return generation_case(model, *prompt, keep_scores=False, **settings)
    written = case.outputs["sequences"].shape[1] - prompt[0].shape[1]
    case.outputs["beam_indices"] = case.outputs["beam_indices"][:, :written]
    return case
