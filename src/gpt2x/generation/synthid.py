"""`SynthIDTextWatermarkDetector`: whether a text has SynthID's watermark.

Source: transformers 4.57, `SynthIDTextWatermarkDetector`; doi:10.1038/s41586-024-08025-4.

B texts, N tokens, n `ngram_len`, K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array
from gpt2x.generation.processors.synthid import SynthIDTextWatermarkLogitsProcessor
from gpt2x.generation.registry import ops_for


class SynthIDTextWatermarkDetector:
    """Scores texts by the bits that SynthID's watermark favoured.

    Args:
        detector_module: scores texts by the bits of their tokens: a function of bits int
            [B, N - n + 1, K] and of bool [B, N - n + 1], which tokens count. `mean_score` and
            `weighted_mean_score` are two.
        logits_processor: the one that the texts were written with.
        tokenizer: its `eos_token_id` ends texts.
    """

    def __init__(
        self,
        detector_module: Callable[[Array, Array], Any],
        logits_processor: SynthIDTextWatermarkLogitsProcessor,
        tokenizer: Any,
    ) -> None:
        self.detector_module = detector_module
        self.logits_processor = logits_processor
        self.tokenizer = tokenizer

    def __call__(self, tokenized_outputs: Array) -> Any:
        """Score texts, int [B, N], without their prompts, which have no watermark.

        Tokens whose context came before, and those from the first eos on, do not count.
        """
        processor = self.logits_processor
        is_new = processor.compute_context_repetition_mask(tokenized_outputs)
        is_text = processor.compute_eos_token_mask(tokenized_outputs, self.tokenizer.eos_token_id)
        bits = processor.compute_g_values(tokenized_outputs)
        return self.detector_module(bits, is_new & is_text[:, processor.ngram_len - 1 :])


def mean_score(g_values: Array, mask: Array) -> np.ndarray:
    """Return the mean bit of each text, float64 [B]; about 0.5 without a watermark.

    Args:
        g_values: int [B, N, K], of any framework.
        mask: [B, N], nonzero where a token counts.

    Raises:
        InvalidInputError: if no token of a text counts.
    """
    return weighted_mean_score(g_values, mask, np.ones(g_values.shape[-1]))


def weighted_mean_score(
    g_values: Array, mask: Array, weights: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """Return the weighted mean bit of each text, float64 [B]; about 0.5 without a watermark.

    Args:
        g_values: int [B, N, K], of any framework.
        mask: [B, N], nonzero where a token counts.
        weights: of the keys, [K]. By default they fall evenly from 10 to 1: the first tournaments
            decide more.

    Raises:
        InvalidInputError: if no token of a text counts.
    """
    bits, counts = (ops_for(array).to_numpy(array) for array in (g_values, mask))
    counts = counts != 0
    if not counts.any(axis=1).all():
        raise InvalidInputError(
            f"No token of text {counts.any(axis=1).argmin()} counts; a text must have at least "
            "ngram_len tokens before its first eos."
        )
    given = np.linspace(10, 1, bits.shape[-1]) if weights is None else np.asarray(weights)
    of_token = bits @ (given / given.sum())  # [B, N]
    return np.where(counts, of_token, 0.0).sum(axis=1) / counts.sum(axis=1)
