"""Processors that force, forbid or favour tokens by position: lengths, bos and eos, suppression.

Some take `device`, as in transformers; it has no effect, since values go where the scores are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, as_column
from gpt2x.generation.processors.base import (
    NEG_INF,
    BuiltInProcessor,
    Context,
    Identity,
    Static,
    Values,
    as_float,
    check_number,
    token_mask,
    when,
)
from gpt2x.generation.tokens import token_array, token_list

LARGEST_FLOAT = float(np.finfo(np.float32).max)


def _forbid(ops: Ops, scores: Array, token_ids: Array) -> Array:
    return ops.where(token_mask(ops, token_ids, scores), NEG_INF, scores)


def _force(ops: Ops, scores: Array, token_ids: Array) -> Array:
    return _only(ops, scores, token_mask(ops, token_ids, scores))


def _only(ops: Ops, scores: Array, allowed: Array) -> Array:
    blank = ops.full(ops.shape(scores), NEG_INF, "float")
    return ops.where(allowed, 0.0, blank)


def _forbid_early_end(ops: Ops, scores: Array, context: Context, values: Values) -> Array:
    too_short = context.length < values["min_length"]
    return when(ops, too_short, lambda: _forbid(ops, scores, values["eos"]), scores)


class MinLengthLogitsProcessor(BuiltInProcessor):
    """Forbid eos until the text, prompt included, has `min_length` tokens.

    eos_token_id: int32 [N], as an attribute.
    """

    def __init__(
        self, min_length: int, eos_token_id: int | Sequence[int], device: Any = None
    ) -> None:
        check_number(
            "min_length", min_length, "an integer of at least 0", lambda n: n >= 0, integer=True
        )
        self.min_length = min_length
        self.eos_token_id = token_array("eos_token_id", eos_token_id)

    @property
    def values(self) -> Values:
        return {"min_length": self.min_length, "eos": self.eos_token_id}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return _forbid_early_end(ops, scores, context, values)


class MinNewTokensLengthLogitsProcessor(BuiltInProcessor):
    """Forbid eos until `min_new_tokens` tokens follow the prompt.

    eos_token_id: int32 [N], as an attribute.
    """

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: int | Sequence[int],
        device: Any = None,
    ) -> None:
        for name, value in (
            ("prompt_length_to_skip", prompt_length_to_skip),
            ("min_new_tokens", min_new_tokens),
        ):
            check_number(name, value, "an integer of at least 0", lambda n: n >= 0, integer=True)
        self.prompt_length_to_skip = prompt_length_to_skip
        self.min_new_tokens = min_new_tokens
        self.eos_token_id = token_array("eos_token_id", eos_token_id)

    @property
    def values(self) -> Values:
        return {
            "min_length": self.prompt_length_to_skip + self.min_new_tokens,
            "eos": self.eos_token_id,
        }

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return _forbid_early_end(ops, scores, context, values)


class ForcedBOSTokenLogitsProcessor(BuiltInProcessor):
    """Force a token right after a prompt of one token."""

    def __init__(self, bos_token_id: int) -> None:
        token_array("bos_token_id", bos_token_id)
        self.bos_token_id = bos_token_id

    @property
    def values(self) -> Values:
        return {"bos": token_array("bos_token_id", self.bos_token_id)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return when(ops, context.length == 1, lambda: _force(ops, scores, values["bos"]), scores)


class ForcedEOSTokenLogitsProcessor(BuiltInProcessor):
    """Force an eos token where only one more token fits in `max_length`.

    eos_token_id: int32 [N], as an attribute.
    """

    def __init__(
        self, max_length: int, eos_token_id: int | Sequence[int], device: Any = None
    ) -> None:
        self.max_length = max_length
        self.eos_token_id = token_array("eos_token_id", eos_token_id)

    @property
    def values(self) -> Values:
        return {"max_length": self.max_length, "forced": self.eos_token_id}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        is_last = context.length == values["max_length"] - 1
        return when(ops, is_last, lambda: _force(ops, scores, values["forced"]), scores)


class ForceTokensLogitsProcessor(BuiltInProcessor):
    """Force a token at each of some positions of the text, prompt included.

    force_token_map: a dict from positions to token ids, or a list of such pairs; as the attribute
        force_token_array, int32 [largest position + 1], -1 where nothing is forced.
    """

    def __init__(self, force_token_map: Mapping[int, int | None] | Sequence[Sequence[Any]]) -> None:
        try:
            forced = dict(force_token_map)  # type: ignore[arg-type]  # checked below
            positions = token_list("force_token_map", list(forced))
        except (TypeError, ValueError):
            raise InvalidInputError(
                "`force_token_map` must be a non-empty dict, or list of pairs, from positions to "
                f"token ids, but is {force_token_map!r}."
            ) from None
        self.force_token_array = np.full(max(positions) + 1, -1, np.int32)
        for position, token in forced.items():
            if token is not None:
                self.force_token_array[position] = token_list("force_token_map", token)[0]

    @property
    def values(self) -> Values:
        return {"forced": self.force_token_array}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        count = ops.shape(values["forced"])[0]
        position = as_column(ops, context.length)  # [1 or R, 1]
        token = ops.take(values["forced"], ops.minimum(position, count - 1))
        forces = (position < count) & (token >= 0)
        allowed = ops.arange(ops.shape(scores)[1])[None, :] == token
        return ops.where(forces, _only(ops, scores, allowed), scores)


class SuppressTokensLogitsProcessor(BuiltInProcessor):
    """Forbid some tokens everywhere."""

    reads_text = False

    def __init__(self, suppress_tokens: Sequence[int], device: Any = None) -> None:
        self.suppress_tokens = token_list("suppress_tokens", suppress_tokens)

    @property
    def values(self) -> Values:
        return {"tokens": token_array("suppress_tokens", self.suppress_tokens)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return _forbid(ops, scores, values["tokens"])


class SuppressTokensAtBeginLogitsProcessor(BuiltInProcessor):
    """Forbid some tokens where the text has exactly `begin_index` tokens."""

    def __init__(
        self, begin_suppress_tokens: Sequence[int], begin_index: int, device: Any = None
    ) -> None:
        self.begin_suppress_tokens = token_list("begin_suppress_tokens", begin_suppress_tokens)
        self.begin_index = begin_index

    def set_begin_index(self, begin_index: int) -> None:
        """Set the length of the text at which the tokens are forbidden."""
        self.begin_index = begin_index

    @property
    def values(self) -> Values:
        return {
            "tokens": token_array("begin_suppress_tokens", self.begin_suppress_tokens),
            "begin_index": self.begin_index,
        }

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        at_begin = context.length == values["begin_index"]
        return when(ops, at_begin, lambda: _forbid(ops, scores, values["tokens"]), scores)


class ExponentialDecayLengthPenalty(BuiltInProcessor):
    """Make eos ever more likely beyond `start` new tokens: add |score| * (factor ** excess - 1).

    Its attributes: regulation_start, the length of the text from which scores rise;
    regulation_factor; and eos_token_id, int32 [N].
    """

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | Sequence[int],
        input_ids_seq_length: int,
    ) -> None:
        try:
            start, factor = exponential_decay_length_penalty
        except (TypeError, ValueError):
            raise InvalidInputError(
                "`exponential_decay_length_penalty` must be a pair (start, decay factor), but is "
                f"{exponential_decay_length_penalty!r}."
            ) from None
        check_number(
            "exponential_decay_length_penalty[0]", start, "an integer", lambda n: True, integer=True
        )
        check_number(
            "exponential_decay_length_penalty[1]", factor, "a number above 0", lambda f: f > 0
        )
        self.regulation_start = input_ids_seq_length + start
        self.regulation_factor = factor
        self.eos_token_id = token_array("eos_token_id", eos_token_id)

    @property
    def values(self) -> Values:
        return {
            "start": self.regulation_start,
            "factor": as_float(self.regulation_factor),
            "eos": self.eos_token_id,
        }

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        excess = context.length - values["start"]

        def favour() -> Array:
            growth = values["factor"] ** ops.cast(excess, "float") - 1.0
            # A forbidden eos stays forbidden, at -inf or at the value that replaces -inf.
            raised = token_mask(ops, values["eos"], scores) & (scores > -LARGEST_FLOAT)
            return scores + ops.where(raised, abs(scores), 0.0) * growth

        return when(ops, excess > 0, favour, scores)


class InfNanRemoveLogitsProcessor(BuiltInProcessor):
    """Replace NaN by 0 and infinities by the largest and smallest finite float32."""

    reads_text = False

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        finite = ops.minimum(ops.maximum(scores, -LARGEST_FLOAT), LARGEST_FLOAT)
        return ops.where(scores == scores, finite, 0.0)


class LogitNormalization(BuiltInProcessor):
    """Normalise the scores, so that they are log-probabilities of what is still allowed."""

    reads_text = False

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return ops.log_softmax(scores)


class PrefixConstrainedLogitsProcessor(BuiltInProcessor):
    """Allow only the tokens that a function names for the text so far.

    prefix_allowed_tokens_fn: called with the prompt's index in the batch and that row's tokens
    (an array of the framework, [length]); returns a list of token ids.
    """

    host = True

    def __init__(
        self, prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]], num_beams: int
    ) -> None:
        self._prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self._num_beams = num_beams
        self._prompts: np.ndarray | None = None  # int [b], of a part of a batch

    @property
    def static(self) -> Static:
        return (Identity(self._prefix_allowed_tokens_fn), self._num_beams)

    @property
    def values(self) -> Values:
        return {"processor": self}

    def for_prompts(self, prompts: np.ndarray) -> PrefixConstrainedLogitsProcessor:
        part = copy.copy(self)
        part._prompts = prompts
        return part

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        function, rows_per_prompt = static
        prompts = values["processor"]._prompts
        allowed = np.zeros(ops.shape(scores), np.bool_)
        for row, text in enumerate(context.texts(ops)):
            prompt = row // (rows_per_prompt * context.repeats)
            prompt = prompt if prompts is None else int(prompts[prompt])
            tokens = function.value(prompt, text)
            if len(tokens) == 0:
                raise InvalidInputError(
                    "`prefix_allowed_tokens_fn` must allow at least one token, but returned an "
                    f"empty list for prompt {prompt}."
                )
            allowed[row, np.asarray(tokens)] = True
        return ops.where(ops.constant(allowed, "bool"), scores, NEG_INF)
