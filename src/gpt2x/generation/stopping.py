"""Stopping criteria: functions of the text so far that end rows.

A criterion is called on the host after each step with `input_ids` (int [R, length], the prompt
included) and `scores` (a tuple of float [R, V], one for each step, or None if scores are not kept).
It returns a bool, or a bool for each row. `generate` applies its own limits (`max_length`,
eos tokens) inside the decoding step; the classes for them here override those limits.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array
from gpt2x.generation.registry import ops_for
from gpt2x.generation.tokens import token_array


class StoppingCriteria:
    """Base class of criteria that users write: override `__call__`."""

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must override __call__")


class StoppingCriteriaList(list):
    """A list of criteria, callable as one: a row ends if any criterion is true."""

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        stopped = _every_row(input_ids, False)
        for criterion in self:
            stopped = stopped | criterion(input_ids, scores, **kwargs)
        return stopped

    @property
    def max_length(self) -> int | None:
        """The limit of the first `MaxLengthCriteria`, if there is one."""
        return next((c.max_length for c in self if isinstance(c, MaxLengthCriteria)), None)


class MaxLengthCriteria(StoppingCriteria):
    """End once the text, prompt included, has `max_length` tokens."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise InvalidInputError(
                f"max_length must be an integer of at least 1; got {max_length!r}."
            )
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        return _every_row(input_ids, input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """End `max_time` seconds after `initial_timestamp` (`time.time()`; by default, now)."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        return _every_row(input_ids, time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """End a row at any of the given tokens.

    eos_token_id: int32 [N], as an attribute.
    """

    def __init__(self, eos_token_id: int | Sequence[int]) -> None:
        self.eos_token_id = token_array("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        ops = ops_for(input_ids)
        return ops.constant(np.isin(ops.to_numpy(input_ids[:, -1]), self.eos_token_id), "bool")


class ConfidenceCriteria(StoppingCriteria):
    """End a row whose last token had a probability below the threshold, by the scores of its step.

    Assistants have `assistant_confidence_threshold` for this, inside the decoding step.
    """

    def __init__(self, assistant_confidence_threshold: float) -> None:
        self.assistant_confidence_threshold = assistant_confidence_threshold

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        if not scores:
            raise InvalidInputError(
                "ConfidenceCriteria reads the scores of each step; call generate with "
                "output_scores=True and return_dict_in_generate=True."
            )
        ops = ops_for(input_ids)
        last = ops.cast(input_ids[:, -1:], "int")
        probability = ops.exp(ops.take_along(ops.log_softmax(scores[-1]), last))[:, 0]
        return probability < self.assistant_confidence_threshold


class StopStringCriteria(StoppingCriteria):
    """End a row once its last token completes one of the given strings, with or without more text
    after it ("stop" ends at "st|op", "sto|pped" and "las|topper").

    tokenizer: anything with ``decode(ids)``.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str]) -> None:
        strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        if not strings or not all(isinstance(string, str) and string for string in strings):
            raise InvalidInputError(
                f"stop_strings must be a string or a list of strings; got {stop_strings!r}."
            )
        self.tokenizer = tokenizer
        self.stop_strings = tuple(strings)
        # A token holds a byte at least, so this many always reach back to the string's start. The
        # extra ones complete a character that the first of them may only hold the end of.
        self._window = max(len(string.encode()) for string in strings) + 4

    def __call__(self, input_ids: Array, scores: Any, **kwargs: Any) -> Array:
        ops = ops_for(input_ids)
        tails = ops.to_numpy(input_ids[:, -self._window :]).tolist()
        return ops.constant(np.array([self._ends(tail) for tail in tails], np.bool_), "bool")

    def _ends(self, tokens: list[int]) -> bool:
        text, before = self.tokenizer.decode(tokens), self.tokenizer.decode(tokens[:-1])
        before = before.rstrip("\ufffd")  # a character that the last token completes
        return any(
            text.find(string, max(0, len(before) - len(string) + 1)) >= 0
            for string in self.stop_strings
        )


def validate_stopping_criteria(
    stopping_criteria: StoppingCriteriaList, max_length: int
) -> StoppingCriteriaList:
    """Return a copy of the criteria that has a `MaxLengthCriteria`; a new one gets `max_length`.

    Warns if the criteria already have one with another limit.
    """
    limit = stopping_criteria.max_length
    if limit is None:
        return StoppingCriteriaList([*stopping_criteria, MaxLengthCriteria(max_length)])
    if limit != max_length:
        warnings.warn(
            f"The stopping criteria end at max_length {limit}, not at {max_length}.",
            UserWarning,
            stacklevel=2,
        )
    return StoppingCriteriaList(stopping_criteria)


def _every_row(input_ids: Array, stop: bool) -> Array:
    return ops_for(input_ids).full((input_ids.shape[0],), stop, "bool")
