"""`Ops` in PyTorch: the array operations of decoding, on tensors of one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Kind, Ops
from gpt2x.generation.registry import register_ops

State = TypeVar("State")

_DTYPES = {"bool": torch.bool, "int": torch.int64, "float": torch.float32}


class TorchOps(Ops):
    """`Ops` on tensors; scalars are Python numbers, and words are int32, whose `+` wraps around."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def constant(self, value: Any, kind: Kind) -> Tensor:
        return torch.as_tensor(value, dtype=_DTYPES[kind], device=self.device)

    def scalar(self, value: float | int | bool, kind: Kind) -> float | int | bool:
        return NUMPY_OPS.scalar(value, kind)

    def full(self, shape: Sequence[int], value: float | int | bool, kind: Kind) -> Tensor:
        return torch.full(tuple(shape), value, dtype=_DTYPES[kind], device=self.device)

    def arange(self, size: int) -> Tensor:
        return torch.arange(size, device=self.device)

    def cast(self, x: Any, kind: Kind) -> Any:
        return x.to(_DTYPES[kind]) if isinstance(x, Tensor) else NUMPY_OPS.cast(x, kind)

    def cast_like(self, x: Tensor, other: Tensor) -> Tensor:
        return x.to(other.dtype)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape(tuple(shape))

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), dim=axis)

    def where(self, condition: Tensor | bool, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):
            return x if condition else y
        return torch.where(condition, x, y)

    def take(self, x: Tensor, indices: Tensor) -> Tensor:
        return x[indices]

    def take_along(self, x: Tensor, indices: Tensor) -> Tensor:
        return x.gather(-1, indices)

    def top_k(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        values, indices = x.topk(k)
        if self._has_ties(x, values):  # of which `topk` takes any
            indices = x.argsort(dim=-1, descending=True, stable=True)[..., :k]
            values = x.gather(-1, indices)
        return values, indices

    def _has_ties(self, x: Tensor, largest: Tensor) -> bool:
        if self.device.type != "cpu":  # an accelerator would wait for the answer
            return False
        eligible = largest > -torch.inf  # those ruled out are never chosen
        inside = (largest[..., 1:] == largest[..., :-1]) & eligible[..., 1:]
        beyond = (x >= largest[..., -1:]).sum(dim=-1) > largest.shape[-1]
        return bool(inside.any() or (beyond & eligible[..., -1]).any())

    def argmax(self, x: Tensor) -> Tensor:
        return x.argmax(dim=-1)

    def write(self, x: Tensor, index: int, value: Tensor, axis: int) -> Tensor:
        x.select(axis, index).copy_(value)
        return x

    def scatter_add(self, x: Tensor, columns: Tensor, updates: Tensor) -> Tensor:
        return x.scatter_add(1, columns, updates)

    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    log1p = staticmethod(torch.log1p)

    def log_softmax(self, x: Tensor) -> Tensor:
        return x.log_softmax(dim=-1)

    def minimum(self, x: Tensor, y: Any) -> Tensor:
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)

    def maximum(self, x: Tensor, y: Any) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(dim=axis)

    def max(self, x: Tensor, axis: int) -> Tensor:
        return x.amax(dim=axis)

    def any(self, x: Tensor, axis: int | None = None) -> Any:
        return bool(x.any()) if axis is None else x.any(dim=axis)

    def all(self, x: Tensor, axis: int | None = None) -> Any:
        return bool(x.all()) if axis is None else x.all(dim=axis)

    def words(self, x: Tensor) -> Tensor:
        return x.to(torch.int32)

    def word_halves(self, words: Tensor) -> tuple[Tensor, Tensor]:
        return ((words >> 16) & 0xFFFF).float(), (words & 0xFFFF).float()

    def shift_left(self, words: Tensor, count: int) -> Tensor:
        return words << count

    def shift_right(self, words: Tensor, count: int) -> Tensor:
        return (words >> count) & ((1 << (32 - count)) - 1)  # `>>` copies the sign into the top

    def hash_words(self, key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> Tensor:
        if self.device.type != "cpu":
            return super().hash_words(key, counter)
        # On a few hundred candidates numpy's calls cost a third of torch's, and it has uint32.
        key0, key1, counter0, counter1 = (
            words.numpy().view(np.uint32) for words in (*key, *counter)
        )
        hashed = NUMPY_OPS.hash_words((key0, key1), (counter0, counter1))
        return torch.from_numpy(hashed.view(np.int32))

    def float_bits(self, x: Tensor) -> Tensor:
        return x.contiguous().view(torch.int32)

    def while_loop(
        self, condition: Callable[[State], bool], body: Callable[[State], State], state: State
    ) -> State:
        while condition(state):
            state = body(state)
        return state

    def to_numpy(self, x: Any) -> np.ndarray:
        return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


CPU_OPS = TorchOps()


def torch_ops(device: torch.device) -> TorchOps:
    """Return the `Ops` of a device."""
    return CPU_OPS if device.type == "cpu" else TorchOps(device)


register_ops(Tensor, lambda tensor: torch_ops(tensor.device))
