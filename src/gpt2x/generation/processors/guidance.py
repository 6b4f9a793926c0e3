"""Classifier-free guidance: away from what the model would write in another context.

Source: transformers 4.57, `UnbatchedClassifierFreeGuidanceLogitsProcessor`; arXiv:2306.17806.
"""

from __future__ import annotations

import math

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors.base import (
    BuiltInProcessor,
    Context,
    Static,
    Values,
    as_float,
    check_number,
)


class ClassifierFreeGuidance(BuiltInProcessor):
    """Move log-probabilities away from those of a second context, which `generate` runs beside.

    guidance_scale: 1 leaves them as they are, more moves them away from the second context, less
        towards it; 0 gives those of the second context.
    """

    reads_text = False

    def __init__(self, guidance_scale: float) -> None:
        check_number("guidance_scale", guidance_scale, "a finite number", math.isfinite)
        self.guidance_scale = guidance_scale

    @property
    def values(self) -> Values:
        return {"scale": as_float(self.guidance_scale)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        if isinstance(context.unconditional, tuple):
            raise InvalidInputError(
                "ClassifierFreeGuidance needs the logits of a second context, which only generate "
                "computes."
            )
        conditional = ops.log_softmax(scores)
        unconditional = ops.log_softmax(context.unconditional)
        return values["scale"] * (conditional - unconditional) + unconditional
