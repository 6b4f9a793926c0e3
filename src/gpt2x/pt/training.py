"""PyTorch's part in training: see `gpt2x.train.engine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.pt.arrays import to_numpy, to_torch
from gpt2x.pt.fused_loss import linear_cross_entropy
from gpt2x.train.engine import (
    EngineOptions,
    Evaluated,
    Inputs,
    MicroBatch,
    OptimizerSettings,
    StepResult,
    World,
)
from gpt2x.weights.table import Head, canonical_pytorch_name

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine:
    """Trains a PyTorch model; see `gpt2x.train.engine.Engine`."""

    def __init__(
        self, load: Callable[[], Any], settings: OptimizerSettings, options: EngineOptions
    ) -> None:
        self.world = World()
        self.model = load().to(_device())
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self._loss = _Loss(self.model, options.bf16)
        self._max_grad_norm = settings.max_grad_norm or float("inf")
        self._names = {
            canonical_pytorch_name(name): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = _adamw(self._names.values(), settings)

    def step(
        self, micro_batches: Sequence[MicroBatch], number: int, learning_rate: float
    ) -> StepResult:
        self.model.train()
        total = torch.zeros((), device=self.model.device)
        for batch in micro_batches:
            torch.manual_seed(batch.seed)
            loss = self._loss(**self._tensors(batch.inputs)) * batch.weight
            loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self._names.values(), self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(total, norm)

    @torch.no_grad()
    def evaluate(self, inputs: Inputs, *, logits: bool) -> Evaluated:
        self.model.eval()
        tensors = self._tensors(inputs)
        if not logits:
            return Evaluated(float(self._loss(**tensors)), None)
        output = self.model(**tensors, return_dict=True)
        return Evaluated(float(output.loss), to_numpy(output.logits.float()))

    def total(self, values: np.ndarray) -> np.ndarray:
        return values

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{moment}.{name}": to_numpy(self._optimizer.state[parameter][moment])
            for name, parameter in self._names.items()
            for moment in _MOMENTS
        }

    def restore(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        for name, parameter in self._names.items():
            moments = {moment: to_torch(state[f"{moment}.{name}"]) for moment in _MOMENTS}
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps)),
                **{moment: value.to(parameter) for moment, value in moments.items()},
            }

    def _tensors(self, inputs: Inputs) -> dict[str, Tensor]:
        device = self.model.device
        return {name: torch.as_tensor(array, device=device) for name, array in inputs.items()}


class _Loss(nn.Module):
    """A model's loss, in bfloat16 if asked for; a language model's without all its logits."""

    def __init__(self, model: Any, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._bf16 = bf16

    def forward(self, **inputs: Tensor) -> Tensor:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._bf16):
            if self.model.head is not Head.LM:
                return self.model(**inputs, return_dict=True).loss
            labels = inputs.pop("labels")
            hidden = self.model.transformer(**inputs, use_cache=False, return_dict=True)[0]
            # Each position predicts the token that follows.
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].reshape(-1).long()
            states = hidden.reshape(-1, hidden.size(-1))
            return linear_cross_entropy(states, self.model.lm_head.weight, targets)


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _adamw(parameters: Any, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW, which decays only matrices."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings.epsilon, fused=True)
