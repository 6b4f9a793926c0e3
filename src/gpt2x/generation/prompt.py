"""Checks and defaults of a prompt, on host arrays, the same for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.config import GenerationConfig
from gpt2x.generation.plan import AVAILABLE, eos_tokens, pad_token
from gpt2x.generation.tokens import token_list


def refuse_arguments(**arguments: Any) -> None:
    """Raise InvalidInputError for arguments of transformers' `generate` that are not available."""
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        raise InvalidInputError(
            f"generate() was given {given[0]}, which is not available. Available are {AVAILABLE}."
        )


def bos_token(config: GenerationConfig) -> int:
    """Return the token that an empty prompt starts with."""
    if config.bos_token_id is None:
        raise InvalidInputError(
            "An empty prompt starts with bos_token_id, which is not set; set it or pass a prompt."
        )
    return token_list("bos_token_id", config.bos_token_id)[0]


def infer_mask(input_ids: np.ndarray, config: GenerationConfig) -> np.ndarray | None:
    """Return the mask of a prompt that came without one: int64 [B, T], or None for no padding.

    Only where the prompt holds the pad token and that is no eos, which a text may hold as well.
    """
    pad = pad_token(config)
    if pad is None or pad in eos_tokens(config) or not (input_ids == pad).any():
        return None
    return (input_ids != pad).astype(np.int64)


def check_mask(attention_mask: np.ndarray) -> None:
    """Raise unless every row of a mask [B, T] ends with text, which is what is continued."""
    rows = np.flatnonzero(attention_mask[:, -1] == 0)
    if rows.size:
        raise InvalidInputError(
            f"attention_mask marks the end of prompt {rows[0]} as padding, so there is nothing to "
            'continue; pad prompts on the left (tokenizer.padding_side = "left").'
        )
