"""Diverse beam search: groups of beams that avoid each other's tokens (arXiv:1610.02424).

At every step the groups choose one after the other. `HammingDiversityLogitsProcessor` lowers the
scores of the tokens that the groups before chose in the same step, by `diversity_penalty` for each
beam that chose it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.strategies.hypotheses import HypothesisBeams


@dataclass(frozen=True, kw_only=True)
class GroupBeamSearch(HypothesisBeams):
    """Search in `num_beam_groups` groups of equal size, each with hypotheses of its own.

    The penalty counts in the scores of texts, as in transformers.
    """


def check_groups(config: Any) -> None:
    """Raise InvalidInputError if `num_beam_groups` and `diversity_penalty` cannot be used.

    Args:
        config: a `GenerationConfig`.
    """
    beams, groups, penalty = config.num_beams, config.num_beam_groups, config.diversity_penalty
    if penalty and groups == 1:
        raise InvalidInputError(
            f"diversity_penalty is {penalty}, which keeps groups of beams apart, but there is one "
            "group; set num_beam_groups to 2 or more, and num_beams to a multiple of it."
        )
    if groups == 1:
        return
    if config.do_sample:
        raise InvalidInputError(
            "Diverse beam search (num_beam_groups > 1) cannot sample; set do_sample=False, or "
            "num_beam_groups=1 and diversity_penalty=0.0."
        )
    if beams % groups:
        raise InvalidInputError(
            f"num_beams must be divisible by num_beam_groups, but they are {beams} and {groups}."
        )
    if not penalty:
        raise InvalidInputError(
            f"num_beam_groups is {groups}, but diversity_penalty is 0, so that all groups would "
            "write the same; set diversity_penalty to a number above 0."
        )
