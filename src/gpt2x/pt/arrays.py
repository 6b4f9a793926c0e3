"""PyTorch's tensors as numpy arrays, from and to which files are read and written."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from gpt2x.weights.lazy import LazyTensor


def to_torch(array: np.ndarray) -> Tensor:
    """Wrap a numpy array; the bits of ml_dtypes' bfloat16 are taken, which torch cannot convert."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values as a host array; a tensor on the CPU shares its memory."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def lazy(tensor: Tensor, copy: bool = False) -> LazyTensor:
    """Wrap a tensor without reading it; reading moves it to the host, or copies it."""
    dtype = to_numpy(tensor.new_empty(0, device="cpu")).dtype

    def read() -> np.ndarray:
        array = to_numpy(tensor)
        return array.copy() if copy else array

    return LazyTensor(tuple(tensor.shape), dtype, read)
