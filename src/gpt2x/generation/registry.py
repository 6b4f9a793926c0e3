"""The `Ops` of each array type; each backend registers its own when it is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops

_REGISTERED: list[tuple[type | tuple[type, ...], Callable[[Any], Ops]]] = []


def register_ops(array_types: type | tuple[type, ...], ops_of_array: Callable[[Any], Ops]) -> None:
    """Make `ops_of_array(array)` choose the `Ops` for arrays of these types."""
    _REGISTERED.append((array_types, ops_of_array))


def ops_for(array: Any) -> Ops:
    """Return the `Ops` of an array: numpy's, or that of a backend that has been imported."""
    if isinstance(array, np.ndarray):
        return NUMPY_OPS
    for array_types, ops_of_array in _REGISTERED:
        if isinstance(array, array_types):
            return ops_of_array(array)
    raise InvalidInputError(
        f"expected an array of numpy or of an imported backend (gpt2x.pt, gpt2x.tf, gpt2x.flax), "
        f"but got {type(array).__module__}.{type(array).__qualname__}."
    )
