"""Copies of weights in the memory order that a CPU multiplies fastest, during a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# Address of the weight -> the weight (which keeps its address), its version, and the copy.
Copies = dict[int, tuple[Tensor, int, Tensor]]
_COPIES: ContextVar[Copies | None] = ContextVar("copies", default=None)


@contextmanager
def copied_weights(wanted: bool, copies: Copies | None = None) -> Iterator[None]:
    """Let `out_in` make copies until the end, if `wanted`, beside those in `copies`.

    No module holds them, so that state dicts, deep copies and pickles know of none, and a thread
    sees its own alone.
    """
    copies = {} if copies is None else copies
    token = _COPIES.set(copies if wanted else None)
    try:
        yield
    finally:
        _COPIES.reset(token)


def out_in(weight: Tensor) -> Tensor:
    """Return a contiguous copy of a weight [out, in], or the weight itself without copies.

    A copy is made when the weight is first multiplied, and again if the weight has changed.
    """
    copies = _COPIES.get()
    if copies is None or weight.is_contiguous() or weight.is_inference():  # these have no version
        return weight
    kept = copies.get(weight.data_ptr())
    if kept is None or kept[1] != weight._version or kept[0].stride() != weight.stride():
        kept = copies[weight.data_ptr()] = (weight, weight._version, weight.contiguous())
    return kept[2]
