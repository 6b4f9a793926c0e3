"""The array operations that decoding needs, as one interface that each framework implements.

Strategies and logits processors are written once, against `Ops` and Python's operators
(`+ - * / // % ** @ & | ~ == < abs()`, basic slicing, `x[:, None]`), which numpy, torch, TensorFlow
and JAX all have on their arrays. Everything else goes through a method below.

Conventions
-----------
* Shapes: R rows (batch x returned sequences or beams), V vocabulary, C candidate tokens.
* Dtypes are named by kind: ``"bool"``, ``"int"`` (the framework's index type: int64 in torch, int32
  elsewhere) and ``"float"`` (always float32).
* A *scalar* is whatever the framework loops over most cheaply: a Python number in numpy and
  torch, a 0-d tensor where code is traced. Comparisons of scalars may therefore give a Python
  bool, which `where` and `while_loop` accept.
* Shapes never depend on values, and a loop keeps the shape and dtype of what it carries.
* Arrays are values: only `write` may reuse the memory of its first argument, which must not be
  used afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from gpt2x.generation import random

Array = Any
Scalar = Any
Kind = Literal["bool", "int", "float"]
State = TypeVar("State")


class Ops(Protocol):
    """The operations of a framework; `gpt2x.generation.numpy_ops.NumpyOps` is the reference."""

    # ---- creation -----------------------------------------------------------------------------

    def constant(self, value: Any, kind: Kind) -> Array:
        """Return an array on the device from a host array or nested sequence of numbers."""

    def scalar(self, value: float | int | bool, kind: Kind) -> Scalar:
        """Return a scalar; floats are rounded to float32 first, so that backends agree."""

    def full(self, shape: Sequence[int | Scalar], value: float | int | bool, kind: Kind) -> Array:
        """Return an array of `shape` filled with `value` (a Python number or a scalar)."""

    def arange(self, size: int | Scalar) -> Array:
        """Return ``[0, 1, ..., size - 1]``, int."""

    def cast(self, x: Array, kind: Kind) -> Array:
        """Convert an array or a scalar."""

    def cast_like(self, x: Array, other: Array) -> Array:
        """Convert an array to the dtype of another, which need not be one of the kinds."""

    # ---- shape --------------------------------------------------------------------------------

    def shape(self, x: Array) -> tuple[int | Scalar, ...]:
        """Return the dimensions: ints where they are known, scalars where they are traced."""

    def reshape(self, x: Array, shape: Sequence[int | Scalar]) -> Array: ...

    def concat(self, arrays: Sequence[Array], axis: int) -> Array: ...

    # ---- selection ----------------------------------------------------------------------------

    def where(self, condition: Array | bool, x: Array, y: Array) -> Array:
        """Choose elementwise with broadcasting; x and y may be Python numbers, but not both."""

    def take(self, x: Array, indices: Array) -> Array:
        """Gather along the first axis: ``x[indices]``, indices int of any rank."""

    def take_along(self, x: Array, indices: Array) -> Array:
        """Gather along the last axis: x [R, N], indices int [R, M] -> [R, M]."""

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        """Return the k largest of each row, descending, and their int columns: x [R, N] -> [R, k].

        Of equal values the lower column comes first, where the framework can promise it.
        """

    def argmax(self, x: Array) -> Array:
        """Return the first column that holds the largest value: [R, N] -> int [R]."""

    # ---- writing ------------------------------------------------------------------------------

    def write(self, x: Array, index: int | Scalar, value: Array, axis: int) -> Array:
        """Return x with the slice at `index` of `axis` replaced; may overwrite x itself.

        `value` has the shape of x without `axis`. The caller ensures 0 <= index < size.
        """

    def scatter_add(self, x: Array, columns: Array, updates: Array) -> Array:
        """Return x [R, N] with ``x[r, columns[r, m]] += updates[r, m]``, repeated columns too."""

    # ---- mathematics --------------------------------------------------------------------------

    def exp(self, x: Array, /) -> Array: ...

    def log(self, x: Array, /) -> Array: ...

    def log1p(self, x: Array, /) -> Array: ...

    def log_softmax(self, x: Array) -> Array:
        """Normalise over the last axis, in float32; -inf stays -inf."""

    def minimum(self, x: Array, y: Array, /) -> Array:
        """Return the smaller of each pair; y may be a number."""

    def maximum(self, x: Array, y: Array, /) -> Array:
        """Return the larger of each pair; y may be a number."""

    def sum(self, x: Array, /, axis: int) -> Array: ...

    def max(self, x: Array, /, axis: int) -> Array: ...

    def any(self, x: Array, /, axis: int | None = None) -> Array:
        """Reduce a bool array over one axis, or over all of them to a scalar."""

    def all(self, x: Array, /, axis: int | None = None) -> Array:
        """Reduce a bool array over one axis, or over all of them to a scalar."""

    # ---- bits ---------------------------------------------------------------------------------

    def words(self, x: Array) -> Array:
        """Reinterpret ints as 32-bit words, of a type whose `+` and `^` wrap around."""

    def word_halves(self, words: Array) -> tuple[Array, Array]:
        """Return the upper and the lower 16 bits of each word, as float32 in [0, 65535]."""

    def shift_left(self, words: Array, count: int) -> Array:
        """Shift 32-bit words; 0 < count < 32."""

    def shift_right(self, words: Array, count: int) -> Array:
        """Shift 32-bit words, filling with zeros; 0 < count < 32."""

    def hash_words(self, key: tuple[Array, Array], counter: tuple[Array, Array]) -> Array:
        """Return the first word of Threefry-2x32; a backend may override it with a faster one."""
        return random.threefry2x32(self, key, counter)[0]

    def float_bits(self, x: Array) -> Array:
        """Reinterpret float32 as signed 32-bit integers (not "int" where that is wider)."""

    # ---- control and host ---------------------------------------------------------------------

    def while_loop(
        self,
        condition: Callable[[State], bool | Scalar],
        body: Callable[[State], State],
        state: State,
    ) -> State:
        """Repeat ``state = body(state)`` while `condition(state)`; structure and shapes stay."""

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy a concrete array or scalar to the host."""


def is_scalar(value: int | Scalar | Array) -> bool:
    """Return whether a value is one for all rows, not an array with one for each."""
    return len(getattr(value, "shape", ())) == 0


def as_column(ops: Ops, value: int | Scalar | Array) -> Array:
    """Return a value for all rows, or one for each, int [R, 1], as int [1 or R, 1]."""
    return ops.full((1, 1), value, "int") if is_scalar(value) else value
