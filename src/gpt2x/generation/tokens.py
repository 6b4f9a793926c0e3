"""Small helpers on token ids given by users."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError


def existing_tokens(value: Any) -> list[int]:
    """Return the ids in the field of a special token, without negative ones, which mean "none" in
    some files.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    values = [] if value is None else [value] if isinstance(value, int) else list(value)
    return [token for token in values if token >= 0]


def token_array(name: str, value: Any) -> np.ndarray:
    """Return the ids of `token_list` as an int32 array [N]."""
    return np.array(token_list(name, value), np.int32)


def token_list(name: str, value: Any) -> list[int]:
    """Return one id, or a sequence or array of ids, as a non-empty list of non-negative ints.

    Raises InvalidInputError that names the argument.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    items = [value] if isinstance(value, int | np.integer) else value
    if not isinstance(items, list | tuple) or not items:
        raise InvalidInputError(
            f"`{name}` must hold a token id or a non-empty list of token ids, but holds {value!r}."
        )
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | np.integer) or item < 0:
            raise InvalidInputError(
                f"`{name}` must hold token ids (integers of at least 0), but holds {item!r}."
            )
    return [int(item) for item in items]
