"""Tensors of PyTorch as arrays of numpy, which files are read and written through."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from gpt2x.weights.lazy import LazyTensor


def to_torch(array: np.ndarray) -> Tensor:
    """Wrap a numpy array; torch has no reader for ml_dtypes' bfloat16, so its bits are taken."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values on the host, which share its memory if it is there already."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def lazy(tensor: Tensor, copy: bool = False) -> LazyTensor:
    """Name a tensor without reading it; it is moved to the host, or copied, when it is read."""
    dtype = to_numpy(tensor.new_empty(0, device="cpu")).dtype

    def read() -> np.ndarray:
        array = to_numpy(tensor)
        return array.copy() if copy else array

    return LazyTensor(tuple(tensor.shape), dtype, read)
