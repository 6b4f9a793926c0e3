"""How one text of a batch is continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gpt2x.errors import InvalidInputError, check_count
from gpt2x.generation.processors.history import RepetitionPenaltyLogitsProcessor
from gpt2x.generation.processors.warpers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from gpt2x.generation.seeds import SEED_LIMIT, is_integer


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How one text is continued: fields of `GenerationConfig`, and the penalties of OpenAI's API.

    Attributes:
        max_new_tokens: the most tokens that are added.
        temperature: of sampling; 0 takes the likeliest token.
        top_k: candidates, the likeliest; 0 for all.
        top_p, min_p, typical_p: the other filters of sampling; 1, 0 and 1 for none.
        repetition_penalty: of tokens of the text so far, prompt included; 1 for none.
        presence_penalty: taken from the score of each token that is in the new text.
        frequency_penalty: the same, as often as it is there.
        logit_bias: what is added to the scores of tokens.
        logprobs: how many of the likeliest tokens each new one is told with; None for no
            probabilities.
        scores_prompt: whether the tokens of the prompt are told with probabilities too.
        seed, stream: the stream of random numbers: that of row `stream` of `generate(seed=seed)`.

    Raises:
        InvalidInputError: for a value that is not allowed.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    scores_prompt: bool = False
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens, 1)
        check_count("top_k", self.top_k, 0)
        if self.temperature != 0:
            TemperatureLogitsWarper(self.temperature)
        TopPLogitsWarper(self.top_p)
        MinPLogitsWarper(self.min_p)
        if self.typical_p != 1:
            TypicalLogitsWarper(self.typical_p)
        RepetitionPenaltyLogitsProcessor(self.repetition_penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            self._check_number(name, -2, 2)
        for token, bias in self.logit_bias.items():
            if not is_integer(token) or token < 0:
                raise InvalidInputError(f"logit_bias must name token ids; got {token!r}.")
            _check_bias(token, bias)
        if not is_integer(self.seed) or not 0 <= self.seed < SEED_LIMIT:
            raise InvalidInputError(
                f"seed must be an integer from 0 to 2**64 - 1; got {self.seed!r}."
            )

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInputError(f"{name} must be a number; got {value!r}.")
        if not least <= value <= most:
            raise InvalidInputError(f"{name} must be from {least} to {most}; got {value!r}.")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; as cold as this, only the likeliest one would be."""
        return self.temperature >= 1e-6

    @property
    def edits(self) -> bool:
        """Whether scores are changed by the text or token by token."""
        return bool(self.logit_bias) or self._any("repetition", "presence", "frequency")

    def _any(self, *penalties: str) -> bool:
        defaults = {each.name: each.default for each in fields(self)}
        names = (f"{name}_penalty" for name in penalties)
        return any(getattr(self, name) != defaults[name] for name in names)


def _check_bias(token: int, bias: Any) -> None:
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
        raise InvalidInputError(
            f"logit_bias of token {token} must be a number from -100 to 100; got {bias!r}."
        )
