"""How long a text may become, and which sizes a compiled computation is built for."""

from __future__ import annotations

import warnings
from typing import Any

from gpt2x.config.generation import GenerationConfig
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Ops

#: Tokens that are added to the prompt if no length is given.
DEFAULT_NEW_TOKENS = DEFAULTS["max_length"]

SMALLEST_BUCKET = 16


def total_length(
    config: GenerationConfig,
    prompt_length: Any,
    n_positions: int,
    embeds_only: Any = 0,
    longest: int | None = None,
) -> Any:
    """Return the columns at which generation ends.

    `max_new_tokens` wins; then `max_length`, if it was set, is the total length; with neither, 20
    tokens are added, as far as there are positions.

    Args:
        config: the options of this call.
        prompt_length: columns of the prompt's token ids, including padding; a scalar of the
            framework if only the graph knows it, and then it is not checked.
        n_positions: number of the model's positions.
        embeds_only: further columns, which have embeddings but no ids (`inputs_embeds`); they count
            for `max_length` but are not part of the result.
        longest: columns that a text may have: by default one more than there are positions, since
            the model never reads the last token.

    Raises:
        InvalidInputError: if the prompt or the text does not fit.
    """
    start = prompt_length + embeds_only
    if not isinstance(start, int):
        if config.max_new_tokens is None and config.max_length_given:
            return config.max_length - embeds_only
        new = config.max_new_tokens
        return prompt_length + (DEFAULT_NEW_TOKENS if new is None else new)
    if start > n_positions:
        raise InvalidInputError(
            f"The prompt has {start} tokens, but the model has {n_positions} positions "
            "(n_positions); shorten the prompt."
        )
    longest = n_positions + 1 if longest is None else longest
    if config.max_new_tokens is not None:
        total, source = start + config.max_new_tokens, "max_new_tokens"
    elif config.max_length_given:
        total, source = config.max_length, "max_length"
    else:
        total, source = min(start + DEFAULT_NEW_TOKENS, n_positions), "n_positions"
    if total <= start:
        raise InvalidInputError(
            f"The prompt has {start} tokens, and {source}={total} is the total length, so there is "
            "no room for a new one; shorten the prompt, raise max_length or set max_new_tokens."
        )
    if total > longest:
        raise InvalidInputError(
            f"{source}={getattr(config, source)} after a prompt of {start} tokens asks for "
            f"{total} tokens in all, but a model with {n_positions} positions (n_positions) can "
            f"write at most {longest}; lower {source} or shorten the prompt."
        )
    return total - embeds_only


def shortest_length(
    config: GenerationConfig, prompt_length: Any, max_length: Any, embeds_only: Any = 0
) -> Any:
    """Return the columns before which eos is forbidden; warn if that is beyond `max_length`.

    `min_new_tokens` wins over `min_length`. The arguments are those of `total_length`, and its
    result.
    """
    if config.min_new_tokens is not None:
        shortest = prompt_length + config.min_new_tokens if config.min_new_tokens else 0
        name = "min_new_tokens"
    else:
        shortest = config.min_length
        if shortest and isinstance(embeds_only, int):
            shortest = max(shortest - embeds_only, 0)
        name = "min_length"
    if isinstance(max_length, int) and shortest > max_length:
        warnings.warn(
            f"{name} ({getattr(config, name)}) asks for more than the length at which generation "
            f"ends ({max_length}), so no text can end with eos; lower {name} or raise max_length.",
            UserWarning,
            stacklevel=2,
        )
    return shortest


def smaller(ops: Ops, size: Any, limit: int) -> Any:
    """Return the smaller of a size and a limit.

    A size is a number, a symbol of JAX, which compares as a number does, or a scalar of a graph.
    """
    return ops.minimum(size, limit) if hasattr(size, "dtype") else min(size, limit)


def bucket(length: int, limit: int) -> int:
    """Round a size up to a power of two (at least 16), or to `limit` if that is smaller.

    Compiled backends build their computations for such sizes, so that a model of 1024 positions
    has at most seven of them. Prompts are padded on the *right* to their bucket: causal attention
    never reads that padding, positions do not change, and decoding overwrites it.

    >>> [bucket(length, limit=1000) for length in (1, 16, 17, 500, 900)]
    [16, 16, 32, 512, 1000]
    """
    return min(max(SMALLEST_BUCKET, 1 << (length - 1).bit_length()), limit)
