"""The low-rank term of a layer in PyTorch, and the hooks of `gpt2x.models.adapters`.

What is trained has `requires_grad`, so an optimizer takes
``[p for p in model.parameters() if p.requires_grad]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2x.checkpoint.adapter import Adapter, Factors
from gpt2x.config.lora import LoraConfig
from gpt2x.models.adapters import AdapterMixin, Installed, is_trained
from gpt2x.pt.arrays import lazy, to_torch
from gpt2x.pt.dropout import Dropout
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import canonical_pytorch_name, without_wrappers


class LowRank(nn.Module):
    """What LoRA adds to a layer: ``scaling * x A^T B^T``, A [r, in] and B [out, r].

    Source: arXiv:2106.09685.
    """

    def __init__(self, a: Tensor, b: Tensor, config: LoraConfig) -> None:
        super().__init__()
        self.A = nn.Parameter(a)
        self.B = nn.Parameter(b)
        self.scaling = config.scaling
        self.dropout = Dropout(config.lora_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]; the factors may be wider than x."""
        inner = F.linear(self.dropout(x.to(self.A.dtype)), self.A)  # [..., r]
        return (F.linear(inner, self.B) * self.scaling).to(x.dtype)


class LoraMixin(AdapterMixin, nn.Module):
    """Gives a PyTorch model the hooks of adapters."""

    def _get_weight(self, name: str) -> LazyTensor:
        return lazy(self._own_parameter(name))

    def _set_weight(self, name: str, value: np.ndarray) -> None:
        with torch.no_grad():
            self._own_parameter(name).copy_(to_torch(value))

    def _own_parameter(self, name: str) -> nn.Parameter:
        found: nn.Parameter = self.get_parameter(self._spell(name))
        return found

    def _attach(self, config: LoraConfig, factors: Mapping[str, Factors]) -> None:
        for layer, pair in factors.items():
            weight = self._own_parameter(f"{layer}.weight")
            dtype = torch.promote_types(weight.dtype, torch.float32)
            a, b = (
                to_torch(np.array(part.read())).to(weight.device, dtype)
                for part in (pair.a, pair.b)
            )
            module = self.get_submodule(self._spell(f"{layer}.weight").rpartition(".")[0])
            module.lora = LowRank(a, b, config).train(module.training)

    def _detach(self) -> None:
        for _, module in self._adapted():
            module.lora = None

    def _current_adapter(self) -> Adapter:
        return self._adapter_in(self.state_dict())

    def _adapter_in(self, state_dict: Mapping[str, Tensor]) -> Adapter:
        """Return the adapter whose tensors stand in a state dict, with its wrappers' prefixes."""
        assert self._adapter is not None
        state = {without_wrappers(key): tensor for key, tensor in state_dict.items()}
        factors = {
            str(canonical_pytorch_name(path)): Factors(
                lazy(state[f"{path}.lora.A"]), lazy(state[f"{path}.lora.B"])
            )
            for path, _ in self._adapted()
        }
        saved = {name: lazy(state[self._spell(name)]) for name in self._adapter.saved}
        return Adapter(self._adapter.config, factors, saved)

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        """Yield name and module of each layer that has a low-rank term."""
        for path, module in list(self.named_modules()):
            if isinstance(getattr(module, "lora", None), LowRank):
                yield path, module

    def _train_only(self, adapter: Installed | None) -> None:
        for name, parameter in self.named_parameters():
            canonical = canonical_pytorch_name(name)
            is_free = adapter is None or (canonical is not None and is_trained(adapter, canonical))
            parameter.requires_grad_(is_free)
