"""`WatermarkDetector`: whether a text has a watermark.

Source: transformers 4.57, `WatermarkDetector`; arXiv:2301.10226 and arXiv:2306.04634.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x.config.model import GPT2Config
from gpt2x.config.watermarking import WatermarkingConfig, watermarking
from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array
from gpt2x.generation.processors.watermark import GreenLists
from gpt2x.generation.registry import ops_for
from gpt2x.models.checks import check_integers, check_shape


@dataclass
class WatermarkDetectorOutput:
    """What a detector found in B texts; each an array [B].

    num_tokens_scored: number of tokens that could be looked up, as float64.
    num_green_tokens: number of those that are green, as float64.
    green_fraction: their quotient.
    z_score: by how many standard deviations more tokens are green than in other texts.
    p_value: about how likely such a score is in a text without the watermark.
    prediction: bool, whether the score is above the threshold.
    confidence: 1 - p_value.
    """

    num_tokens_scored: np.ndarray | None = None
    num_green_tokens: np.ndarray | None = None
    green_fraction: np.ndarray | None = None
    z_score: np.ndarray | None = None
    p_value: np.ndarray | None = None
    prediction: np.ndarray | None = None
    confidence: np.ndarray | None = None


class WatermarkDetector:
    """Finds the watermark that `generate(watermarking_config=...)` leaves in a text.

    Args:
        model_config: of the model that wrote the text, for its vocabulary and its bos token.
        device: has no effect.
        watermarking_config: the one that the text was written with, or a dictionary of it.
        ignore_repeated_ngrams: count a token once, however often it follows the same tokens.
        max_cache_size: has no effect; results are kept by `WatermarkLogitsProcessor`.

    Raises:
        InvalidInputError: if an option cannot be used.
    """

    def __init__(
        self,
        model_config: GPT2Config,
        device: Any = None,
        watermarking_config: WatermarkingConfig | dict[str, Any] | None = None,
        ignore_repeated_ngrams: bool = False,
        max_cache_size: int = 128,
    ) -> None:
        config = watermarking("watermarking_config", watermarking_config)
        if not isinstance(config, WatermarkingConfig):
            raise InvalidInputError(
                "WatermarkDetector finds the watermark of a WatermarkingConfig; for that of a "
                "SynthIDTextWatermarkingConfig use SynthIDTextWatermarkDetector."
            )
        self.bos_token_id = model_config.bos_token_id
        self.greenlist_ratio = config.greenlist_ratio
        self.ignore_repeated_ngrams = ignore_repeated_ngrams
        self._lists = GreenLists.of(config, model_config.vocab_size)

    def __call__(
        self,
        input_ids: Array,
        z_threshold: float = 3.0,
        return_dict: bool = False,
        *,
        attention_mask: Array | None = None,
    ) -> WatermarkDetectorOutput | np.ndarray:
        """Score texts, best without their prompts, which have no watermark.

        Args:
            input_ids: int [B, T], of any framework. If the first text starts with bos, the first
                column does not count.
            z_threshold: the score above which a text counts as watermarked.
            return_dict: return all results in place of the predictions.
            attention_mask: [B, T], 0 at padding, which does not count; without it, all does.

        Returns:
            The predictions, bool [B], or a `WatermarkDetectorOutput`.

        Raises:
            InvalidInputError: if a text is too short for a single token to be scored.
        """
        ids = _on_host(input_ids)
        check_integers("input_ids", ids)
        if ids.ndim != 2 or ids.size == 0:
            raise InvalidInputError(
                f"input_ids must be of shape [batch, length]; got the shape {ids.shape}."
            )
        is_text = np.ones(ids.shape, np.bool_)
        if attention_mask is not None:
            is_text = _on_host(attention_mask) != 0
            check_shape("attention_mask", is_text, [ids.shape])
        if ids[0, 0] == self.bos_token_id:
            ids, is_text = ids[:, 1:], is_text[:, 1:]
        counts = [self._count(*row) for row in zip(ids, is_text, strict=True)]
        scored, green = np.array(counts, np.float64).T
        return self._judge(scored, green, z_threshold, return_dict)

    def _count(self, tokens: np.ndarray, is_text: np.ndarray) -> tuple[int, int]:
        """Return how many tokens of a row were scored, and how many of them are green."""
        width = self._lists.context_width
        size = width + (not self._lists.selfhash)  # of the tokens that decide, the scored one last
        if len(tokens) <= width or not (scored := self._ngrams(tokens, is_text, size)):
            raise InvalidInputError(
                f"Each text must have at least {width + 1} tokens: the watermark of a token "
                f"depends on {width} of them."
            )
        green = [self._lists.has(np.array(ngram[:-1], np.int64), ngram[-1]) for ngram in scored]
        return len(scored), sum(green)

    def _ngrams(self, tokens: np.ndarray, is_text: np.ndarray, size: int) -> list[tuple[int, ...]]:
        """Return the n-grams of a row that hold no padding."""
        windows = np.lib.stride_tricks.sliding_window_view
        whole = windows(is_text, size).all(axis=1)
        ngrams = [tuple(ngram) for ngram in windows(tokens, size)[whole].tolist()]
        return list(dict.fromkeys(ngrams)) if self.ignore_repeated_ngrams else ngrams

    def _judge(
        self, scored: np.ndarray, green: np.ndarray, threshold: float, return_dict: bool
    ) -> WatermarkDetectorOutput | np.ndarray:
        """Return what the numbers of tokens mean, float64 [B] each."""
        ratio = self.greenlist_ratio
        z = (green - ratio * scored) / np.sqrt(scored * ratio * (1 - ratio))
        if not return_dict:
            return z > threshold
        # The normal distribution, by a formula that transformers uses.
        p = 1 - (0.5 * (1 + np.sign(z) * (1 - np.exp(-2 * z**2 / np.pi))))
        return WatermarkDetectorOutput(scored, green, green / scored, z, p, z > threshold, 1 - p)


def _on_host(array: Any) -> np.ndarray:
    return np.asarray(array) if isinstance(array, list) else ops_for(array).to_numpy(array)
