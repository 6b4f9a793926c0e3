"""Checks and defaults of a prompt, on host arrays, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array
from gpt2x.generation.plan import AVAILABLE, eos_tokens, pad_token
from gpt2x.generation.tokens import existing_tokens
from gpt2x.models.checks import check_shape


def refuse_arguments(**arguments: Any) -> None:
    """Raise InvalidInputError for arguments of transformers' `generate` that are not available."""
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        raise InvalidInputError(
            f"generate() was given {given[0]}, which is not available. Available are {AVAILABLE}."
        )


def bos_token(config: GenerationConfig) -> int:
    """Return the token that an empty prompt starts with."""
    tokens = existing_tokens(config.bos_token_id)
    if not tokens:
        raise InvalidInputError(
            "An empty prompt starts with bos_token_id, which is not set; set it or pass a prompt."
        )
    return tokens[0]


def infer_mask(input_ids: np.ndarray, config: GenerationConfig) -> np.ndarray | None:
    """Return the mask of a prompt that came without one: int64 [B, T], or None for no padding.

    Only where the prompt holds the pad token and that is not an eos, which a text may hold as well.
    """
    pad = pad_token(config)
    if pad is None or pad in eos_tokens(config) or not (input_ids == pad).any():
        return None
    return (input_ids != pad).astype(np.int64)


def padding_first(
    input_ids: Array,
    attention_mask: Array,
    arguments: dict[str, Any],
    *,
    host: Callable[[Array], np.ndarray],
    take: Callable[[Array, np.ndarray], Array],
) -> tuple[Array, Array]:
    """Move the padding at the end of prompts to their start: a text is continued after its end.

    Args:
        input_ids: int [B, T].
        attention_mask: [B, T], nonzero at text; or [B, T'] beside `inputs_embeds`.
        arguments: the model's other arguments; those that go with the columns move with them.
        host: reads an array of the backend.
        take: takes from an array [B, T] the columns int64 [B, T] of each row.

    Returns:
        The ids and the mask, as they were given if every row ends with text.

    Raises:
        InvalidInputError: if a row holds no text, or if what stands in a fixed order was given.
    """
    is_text = host(attention_mask) != 0
    if is_text[:, -1].all():
        return input_ids, attention_mask
    empty = np.flatnonzero(~is_text.any(axis=1))
    if empty.size:
        raise InvalidInputError(
            f"attention_mask marks all of prompt {empty[0]} as padding, so there is nothing to "
            "continue; leave that prompt out, or let it begin with bos_token_id."
        )
    for name in ("inputs_embeds", "past_key_values"):
        if name in arguments:
            raise InvalidInputError(
                f"attention_mask marks the end of prompt {np.argmin(is_text[:, -1])} as padding, "
                f"which has to come first where {name} are given; pad prompts on the left "
                '(tokenizer.padding_side = "left").'
            )
    width = is_text.shape[1]
    padding = is_text[:, ::-1].argmax(axis=1)[:, None]  # columns at the end of each row
    columns = (np.arange(width) - padding) % width
    for name in ("position_ids", "token_type_ids"):
        if name in arguments:
            check_shape(name, arguments[name], [columns.shape])
            arguments[name] = take(arguments[name], columns)
    return take(input_ids, columns), take(attention_mask, columns)
