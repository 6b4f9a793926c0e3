"""The reference implementation of `Ops`: numpy, checking what compilers would check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from gpt2x.generation.ops import Array, Kind, Ops, Scalar

State = TypeVar("State")

_DTYPES = {"bool": np.bool_, "int": np.int32, "float": np.float32}
_SCALARS: dict[str, Callable[[Any], Scalar]] = {
    "bool": bool,
    "int": int,
    "float": lambda value: float(np.float32(value)),
}


class NumpyOps(Ops):
    """`Ops` on numpy arrays; scalars are Python numbers.

    `while_loop` raises TypeError if its body changes the structure, a shape or a dtype of the
    state, as XLA and jit would. So strategies can be tested without a framework.
    """

    def constant(self, value: Any, kind: Kind) -> np.ndarray:
        return np.asarray(value, dtype=_DTYPES[kind])

    def scalar(self, value: float | int | bool, kind: Kind) -> Scalar:
        return _SCALARS[kind](value)

    def full(self, shape: Sequence[int], value: float | int | bool, kind: Kind) -> np.ndarray:
        return np.full(shape, value, dtype=_DTYPES[kind])

    def arange(self, size: int) -> np.ndarray:
        return np.arange(size, dtype=np.int32)

    def cast(self, x: Array, kind: Kind) -> Array:
        return x.astype(_DTYPES[kind]) if isinstance(x, np.ndarray) else _SCALARS[kind](x)

    def cast_like(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        return x.astype(other.dtype)

    def shape(self, x: np.ndarray) -> tuple[int, ...]:
        return x.shape

    def reshape(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        return x.reshape(tuple(shape))

    def concat(self, arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    def where(self, condition: Array | bool, x: Array, y: Array) -> Array:
        if isinstance(condition, bool):
            return x if condition else y
        return np.where(condition, x, y)

    def take(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return x[indices]

    def take_along(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, indices, axis=-1)

    def top_k(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
        return np.take_along_axis(x, order, axis=-1), order.astype(np.int32)

    def argmax(self, x: np.ndarray) -> np.ndarray:
        return np.argmax(x, axis=-1).astype(np.int32)

    def write(self, x: np.ndarray, index: int, value: Array, axis: int) -> np.ndarray:
        x[(slice(None),) * (axis % x.ndim) + (index,)] = value
        return x

    def scatter_add(self, x: np.ndarray, columns: np.ndarray, updates: Array) -> np.ndarray:
        x = x.copy()
        rows = np.arange(x.shape[0])[:, None]
        np.add.at(x, (rows, columns), updates)
        return x

    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)

    def log_softmax(self, x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def sum(self, x: np.ndarray, axis: int) -> np.ndarray:
        return x.sum(axis=axis, dtype=x.dtype)

    def max(self, x: np.ndarray, axis: int) -> np.ndarray:
        return x.max(axis=axis)

    def any(self, x: np.ndarray, axis: int | None = None) -> Array:
        return bool(x.any()) if axis is None else x.any(axis=axis)

    def all(self, x: np.ndarray, axis: int | None = None) -> Array:
        return bool(x.all()) if axis is None else x.all(axis=axis)

    def words(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.int32, copy=False).view(np.uint32)

    def word_halves(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (words >> 16).astype(np.float32), (words & 0xFFFF).astype(np.float32)

    def shift_left(self, words: np.ndarray, count: int) -> np.ndarray:
        return words << np.uint32(count)

    def shift_right(self, words: np.ndarray, count: int) -> np.ndarray:
        return words >> np.uint32(count)

    def float_bits(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x).view(np.int32)

    def while_loop(
        self, condition: Callable[[State], bool], body: Callable[[State], State], state: State
    ) -> State:
        signature = _signature(state)
        while condition(state):
            state = body(state)
            if _signature(state) != signature:
                raise TypeError(
                    f"a loop's body changed its state from {signature} to {_signature(state)}"
                )
        return state

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)


def _signature(state: Any) -> Any:
    """Return the structure, shapes and dtypes of a state of nested tuples and dicts."""
    if isinstance(state, np.ndarray):
        return state.shape, str(state.dtype)
    if isinstance(state, tuple):
        return type(state).__name__, tuple(_signature(item) for item in state)
    if isinstance(state, dict):
        return {name: _signature(item) for name, item in state.items()}
    return type(state).__name__


NUMPY_OPS = NumpyOps()
