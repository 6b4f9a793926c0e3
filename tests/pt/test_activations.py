"""The activation functions of PyTorch, held to their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gpt2x.pt.activations import ACTIVATIONS
from support.contract.activations import ActivationsContract


class TestActivations(ActivationsContract):
    activations = ACTIVATIONS

    def array(self, values: np.ndarray) -> Any:
        return torch.tensor(values, dtype=torch.float32)
