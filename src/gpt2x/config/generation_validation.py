"""Rules across the fields of a `GenerationConfig`: contradictions, and options without effect.

Source: transformers 4.57, `GenerationConfig.validate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpt2x.config.generation_fields import DEFAULTS, OUTPUT_FLAGS, SAMPLING_FIELDS
from gpt2x.errors import InvalidInputError

_BEAMS = ("early_stopping", "length_penalty")
_CACHE = ("cache_implementation", "cache_config", "return_legacy_cache")


def refuse_impossible(config: Any) -> None:
    """Raise InvalidInputError if the fields contradict each other."""
    wanted, beams = config.num_return_sequences, config.num_beams
    if wanted > 1 and beams == 1 and not config.do_sample:
        raise InvalidInputError(
            f"Greedy search finds one text, so num_return_sequences must be 1, but is {wanted}; "
            "set do_sample=True or num_beams."
        )
    if 1 < beams < wanted:
        raise InvalidInputError(
            f"num_return_sequences ({wanted}) must be at most num_beams ({beams})."
        )


def without_effect(config: Any) -> dict[str, str]:
    """Return the fields that are set but not used, each with the reason."""
    groups: tuple[tuple[bool, Iterable[str], str], ...] = (
        (not config.do_sample, SAMPLING_FIELDS, "needs do_sample=True"),
        (config.num_beams == 1, _BEAMS, "needs num_beams > 1"),
        (not config.use_cache, _CACHE, "needs use_cache=True"),
        (not config.return_dict_in_generate, OUTPUT_FLAGS, "needs return_dict_in_generate=True"),
    )
    reasons = {}
    for applies, names, reason in groups:
        for name in names:
            value = getattr(config, name)
            is_contrastive = name == "top_k" and config.penalty_alpha
            if applies and value not in (None, False, DEFAULTS[name]) and not is_contrastive:
                reasons[name] = f"`{name}` is set to `{value}`, which {reason}"
    pad = config.pad_token_id
    if isinstance(pad, int) and pad < 0:
        reasons["pad_token_id"] = f"`pad_token_id` is {pad}, which means that there is none"
    return reasons
