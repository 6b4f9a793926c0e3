"""The processor of diverse beam search."""

from __future__ import annotations

from types import MappingProxyType

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors.base import (
    BuiltInProcessor,
    Context,
    Static,
    Values,
    as_float,
    check_number,
    token_counts,
)
from gpt2x.generation.registry import ops_for


class HammingDiversityLogitsProcessor(BuiltInProcessor):
    """Lower the scores of tokens that earlier groups of beams chose in the same step.

    diversity_penalty: is subtracted for each beam of an earlier group that chose the token.
    """

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        check_number(
            "diversity_penalty", diversity_penalty, "a number above 0", lambda penalty: penalty > 0
        )
        several = "an integer of at least 2"
        check_number("num_beams", num_beams, several, lambda n: n >= 2, integer=True)
        check_number("num_beam_groups", num_beam_groups, several, lambda n: n >= 2, integer=True)
        if num_beam_groups > num_beams:
            raise InvalidInputError(
                f"`num_beam_groups` ({num_beam_groups}) must be at most `num_beams` ({num_beams})."
            )
        self.diversity_penalty = as_float(diversity_penalty)
        self.num_beams = num_beams
        self.num_beam_groups = num_beam_groups

    @property
    def values(self) -> Values:
        return MappingProxyType({"diversity_penalty": self.diversity_penalty})

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        if isinstance(context.chosen, tuple):  # the first group
            return scores
        everywhere = ops.full(ops.shape(context.chosen), True, "bool")
        counts = token_counts(ops, context.chosen, everywhere, scores)
        return scores - values["diversity_penalty"] * counts

    def __call__(  # type: ignore[override]
        self, input_ids: Array | None, scores: Array, current_tokens: Array, beam_group_idx: int
    ) -> Array:
        """Process the scores of one group.

        Args:
            input_ids: not read.
            scores: float [B x beams of a group, V].
            current_tokens: int [B x num_beams], the tokens that the groups have chosen in this
                step; those of this group and later ones are not read.
            beam_group_idx: the group, 0 for the first.
        """
        ops = ops_for(scores)
        size = self.num_beams // self.num_beam_groups
        rows = ops.shape(scores)[0]
        tokens = ops.reshape(ops.cast(current_tokens, "int"), (-1, self.num_beams))
        chosen = ops.take(tokens[:, : beam_group_idx * size], ops.arange(rows) // size)
        context = Context(chosen, ops.full((rows, 0), True, "bool"), 0)
        if beam_group_idx > 0:
            context = context._replace(chosen=chosen)
        values = {"diversity_penalty": ops.scalar(self.diversity_penalty, "float")}
        processed = self.apply(ops, ops.cast(scores, "float"), context, self.static, values)
        return ops.cast_like(processed, scores)
