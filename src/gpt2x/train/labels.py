"""Labels of data: their names, and the kind of problem that they make."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gpt2x.errors import listed

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config
    from gpt2x.corpus import Place

REGRESSION = "regression"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"


def parsed_list(value: Any) -> Any:
    """Return the list that a text of CSV is in JSON, or else the value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def problem_of(values: Iterable[Any]) -> str:
    """Return the problem type of labels.

    Lists make it multi_label_classification, numbers that are not all whole a regression.
    """
    values = [*values]
    if any(isinstance(value, list) for value in values):
        return MULTI_LABEL
    numbers = [number_of(value) for value in values]
    if None not in numbers and not all(number.is_integer() for number in numbers if number):
        return REGRESSION
    return SINGLE_LABEL


def number_of(value: Any) -> float | None:
    """Return the finite number that a label is, also in text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def name_of(value: Any) -> str | None:
    """Return the name of a label: text, a number, or true or false; None for anything else."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return json.dumps(value)
    number = number_of(value)
    if number is None:
        return None
    return str(int(value)) if number.is_integer() else str(value)


def names_of(values: Iterable[Any]) -> list[str] | None:
    """Return the names of labels; None if one of them cannot be a label."""
    names = [name_of(value) for value in values]
    known = [name for name in names if name is not None]
    return known if len(known) == len(names) else None


def in_order(names: Iterable[str]) -> list[str]:
    """Return different names in order: numbers by value, anything else as text."""
    names = sorted(set(names))
    numbers = [number_of(name) for name in names]
    if None in numbers:
        return names
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def numbered(names: Iterable[str], trained: GPT2Config | None) -> dict[str, Any]:
    """Return id2label and label2id of a config.

    Args:
        names: of the labels.
        trained: the config of a model with such a head; if it has the same labels, they keep their
            numbers.
    """
    order = in_order(names)
    if trained is not None and {*trained.label2id} == {*order}:
        order = sorted(order, key=lambda name: trained.label2id[name])
    return {"id2label": dict(enumerate(order)), "label2id": {n: i for i, n in enumerate(order)}}


def ids_of(names: Iterable[str], config: GPT2Config, place: Place) -> list[int]:
    """Return the numbers of labels; raises DataError for one that the model does not have."""
    names = [*names]
    for name in names:
        if name not in config.label2id:
            known = listed(map(repr, config.label2id))
            raise place.error(f"the label {name!r} is not one of the training data's: {known}")
    return [config.label2id[name] for name in names]
