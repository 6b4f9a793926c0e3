"""Checks of single fields, for the tables of both configs.

A check takes the name of a field and the value that a user or a file gave. It returns the value
that is stored (a Python int, float, str ..., so that it can be written as JSON), and raises
InvalidInputError if the field cannot hold it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

from gpt2x.errors import InvalidInputError, check_choice

Check = Callable[[str, Any], Any]


def integer(minimum: int | None = None) -> Check:
    """Check for an int (numpy integers become Python's; bool is not one) of at least `minimum`."""
    wanted = "an integer" if minimum is None else f"an integer of at least {minimum}"

    def check(name: str, value: Any) -> int:
        try:
            number = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = None
        if number is None or (minimum is not None and number < minimum):
            raise InvalidInputError(f"{name} must be {wanted}; got {value!r}.")
        return number

    return check


def number(minimum: float, maximum: float | None = None) -> Check:
    """Check for a real number in [minimum, maximum].

    An int becomes a float: transformers 5 refuses a config.json whose layer_norm_epsilon is `1`.
    """
    wanted = f"at least {minimum:g}" if maximum is None else f"from {minimum:g} to {maximum:g}"

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        # Negated, so that nan fails as well.
        if not is_number or not (minimum <= value and (maximum is None or value <= maximum)):
            raise InvalidInputError(f"{name} must be a number {wanted}; got {value!r}.")
        return float(value)

    return check


def boolean(name: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False; got {value!r}.")
    return value


def choice(allowed: tuple[str, ...]) -> Check:
    """Check for one of `allowed`."""

    def check(name: str, value: Any) -> str:
        check_choice(name, value, allowed)
        return value

    return check


def optional(check: Check) -> Check:
    """Check for None or a value that `check` allows."""

    def check_unless_none(name: str, value: Any) -> Any:
        return None if value is None else check(name, value)

    return check_unless_none


def token_ids(name: str, value: Any) -> int | list[int]:
    """Check for one token id or several; not against the vocabulary, since files with -1 exist."""
    if isinstance(value, list | tuple):
        return [integer()(name, token_id) for token_id in value]
    return integer()(name, value)
