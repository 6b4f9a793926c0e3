"""transformers' processor of classifier-free guidance, for loops that users write themselves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpt2x.generation.processors.base import LogitsProcessor, check_number


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Move scores away from those of a second context, which the processor runs itself.

    `generate(guidance_scale=...)` does the same without it, beside the prompts. An object serves
    one text, step by step.

    Args:
        guidance_scale: 1 leaves the log-probabilities as they are, more moves them away from the
            second context, less towards it.
        model: a language model.
        unconditional_ids: the second context, int [R, T]; by default the last token of the text.
        unconditional_attention_mask: of the second context, int [R, T]; by default ones.
        use_cache: whether to keep keys and values between steps.

    Source: transformers 4.57; arXiv:2306.17806.
    """

    def __init__(
        self,
        guidance_scale: float,
        model: Any,
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool = True,
    ) -> None:
        check_number("guidance_scale", guidance_scale, "a finite number", math.isfinite)
        self.guidance_scale = guidance_scale
        self.model = model
        self.use_cache = use_cache
        self._ids = unconditional_ids
        self._mask = unconditional_attention_mask
        self._past: Any = None
        self._is_first = True

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return float [R, V] for the text int [R, length], whose last token is new."""
        scores = scores.log_softmax(-1)
        if self.guidance_scale == 1:
            return scores
        other = self._logits(input_ids[:, -1:]).log_softmax(-1)
        return self.guidance_scale * (scores - other) + other

    def _logits(self, last: Tensor) -> Tensor:
        """Return the logits after the second context, which the last token [R, 1] has joined."""
        if self._is_first:
            self._is_first = False
            self._ids = last if self._ids is None else self._ids
            self._mask = torch.ones_like(self._ids) if self._mask is None else self._mask
        else:
            self._ids = torch.cat([self._ids, last], dim=1)
            self._mask = torch.cat([self._mask, torch.ones_like(last)], dim=1)
        ids = self._ids if self._past is None else last
        output = self.model(
            ids, attention_mask=self._mask, past_key_values=self._past, use_cache=self.use_cache
        )
        self._past = output.past_key_values
        return output.logits[:, -1].float()
