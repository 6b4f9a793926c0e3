"""Weights in a file whose pages processes share, in place of memory of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes, as PyTorch's own memory has


def share(tensors: Iterable[Tensor], path: Path) -> None:
    """Move the values of tensors to a file that is mapped, and written first if there is none.

    Processes that share tensors of the same values, shapes and order by the same path have their
    pages once. A process that changes a value gets a copy of its page.

    Args:
        tensors: contiguous, on the CPU; each keeps its identity.
        path: of the file.
    """
    found = [tensor for tensor in tensors if tensor.numel()]
    starts, size = [], 0
    for tensor in found:
        starts.append(size)
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    if not size:
        return
    if not path.exists():
        _write(found, starts, size, path)
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    for tensor, start in zip(found, starts, strict=True):
        part = mapped[start : start + tensor.nbytes]
        tensor.data = part.view(tensor.dtype).view(tensor.shape)


def _write(tensors: list[Tensor], starts: list[int], size: int, path: Path) -> None:
    """Write a file beside its place, and then move it there: others may look at any time."""
    number, beside = tempfile.mkstemp(dir=path.parent)
    os.close(number)
    os.truncate(beside, size)
    written = torch.from_file(beside, shared=True, size=size, dtype=torch.uint8)
    for tensor, start in zip(tensors, starts, strict=True):
        values = tensor.detach().reshape(-1).view(torch.uint8)
        written[start : start + tensor.nbytes] = values
    os.replace(beside, path)
