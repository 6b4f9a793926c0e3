"""Running a PyTorch model on arrays of the host, for the pipelines.

B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def place(model: Any, device: Any) -> Any:
    """Return the model on a device: a name, a `torch.device`, or a number.

    Number n is the n-th accelerator if there is one, and -1 the CPU. None leaves the model.
    """
    if device is None:
        return model
    if isinstance(device, int):
        backends = {"cuda": torch.cuda, "mps": torch.mps}
        found = [name for name, module in backends.items() if module.device_count() > 0]
        device = f"{found[0]}:{device}" if found and device >= 0 else "cpu"
    return model.to(device)


def width(tokens: int, limit: int) -> int:
    """Return how many columns a batch gets whose longest row has `tokens`: those."""
    return tokens


def to_device(model: Any, array: np.ndarray) -> Tensor:
    """Return an array as an input of the model."""
    return torch.as_tensor(array, device=model.device)


def forward(model: Any, inputs: Mapping[str, np.ndarray], **options: Any) -> Any:
    """Return the model's output for inputs int [B, T] and options, without gradients."""
    tensors = {name: to_device(model, array) for name, array in inputs.items()}
    with torch.no_grad():
        return model(**tensors, **options, return_dict=True)


def to_host(array: Tensor) -> np.ndarray:
    """Return an array of the model as numpy's, half precision as float32."""
    array = array.detach().cpu()
    is_half = array.is_floating_point() and array.itemsize == 2
    return (array.float() if is_half else array).numpy()
