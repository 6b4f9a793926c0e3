"""PyTorch's part in training: see `gpt2x.train.engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.pt import distribution
from gpt2x.pt.arrays import to_numpy, to_torch
from gpt2x.pt.dropout import keyed
from gpt2x.pt.fused_loss import linear_cross_entropy
from gpt2x.train.engine import (
    EngineOptions,
    Evaluated,
    Inputs,
    MicroBatch,
    OptimizerSettings,
    StepResult,
)
from gpt2x.weights.table import Head, canonical_pytorch_name

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine:
    """Trains a PyTorch model; see `gpt2x.train.engine.Engine`."""

    def __init__(
        self, load: Callable[[], Any], settings: OptimizerSettings, options: EngineOptions
    ) -> None:
        self.world = distribution.join()
        self.model = load()
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self._loss = _Loss(self.model, options.bf16)
        if options.torch_compile is not None:
            _compile(self._loss, options.torch_compile)
        self._called = self._distributed(options)
        self._same_dropout = options.same_dropout
        self._max_grad_norm = settings.max_grad_norm or float("inf")
        self._names = {
            canonical_pytorch_name(name): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = _adamw(self._names.values(), settings)

    def _distributed(self, options: EngineOptions) -> nn.Module:
        """Return the loss as training calls it, on the device of this process."""
        if options.fsdp:
            if not distribution.is_joined():
                raise InvalidInputError(
                    "fsdp divides a model between processes; start them by "
                    "`torchrun --nproc-per-node=N -m gpt2x train ...`, or leave it out."
                )
            distribution.shard(self._loss, self.model.base_model.h)
            return self._loss
        self.model.to(distribution.device())
        return distribution.replicated(self._loss) if self.world.processes > 1 else self._loss

    def step(
        self, micro_batches: Sequence[MicroBatch], number: int, learning_rate: float
    ) -> StepResult:
        self._called.train()
        total = torch.zeros((), device=self.model.device)
        for batch in micro_batches:
            is_last = batch is micro_batches[-1]
            with self._seeded(batch), distribution.averaging(self._called, is_last):
                loss = self._called(**self._tensors(_with_labels(batch))) * batch.weight
                # The weights sum to 1 over the processes, and gradients are averaged over them.
                (loss * self.world.processes).backward()
            total += loss.detach()
        if self.world.processes > 1:
            distribution.add_up(total)
        norm = nn.utils.clip_grad_norm_(self._names.values(), self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(total, distribution.whole(norm))

    def _seeded(self, batch: MicroBatch) -> AbstractContextManager[Any]:
        """Let dropout draw from the seed of a micro-batch, in its backward pass too."""
        if self._same_dropout:
            return keyed(self.model, batch.seed, batch.first_row)
        torch.manual_seed(batch.seed)
        return nullcontext()

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # it is not worth compiling another time
    def evaluate(self, inputs: Inputs, *, logits: bool) -> Evaluated:
        self._called.eval()
        found = self._loss(**self._tensors(inputs), logits=logits)
        distribution.release(self._loss)
        if not logits:
            return Evaluated(float(found), None)
        return Evaluated(float(found[0]), to_numpy(found[1].float()))

    @contextmanager
    def sampled(self) -> Iterator[Any]:
        self._called.eval()
        # The blocks are gathered as they are called; the rest, as the whole would be.
        distribution.gather(self._loss)
        try:
            yield self.model
        finally:
            distribution.release(self._loss)

    def total(self, values: np.ndarray) -> np.ndarray:
        if self.world.processes == 1:
            return values
        tensor = torch.from_numpy(values.copy())
        distribution.add_up(tensor)
        return tensor.numpy()

    def save(self, folder: Path) -> None:
        state = self._gathered(self.model.state_dict())
        self.model.save_pretrained(folder, is_main_process=self.world.rank == 0, state_dict=state)

    def state(self) -> dict[str, np.ndarray]:
        moments = {
            f"{moment}.{name}": self._optimizer.state[parameter][moment]
            for name, parameter in self._names.items()
            for moment in _MOMENTS
        }
        return {name: to_numpy(tensor) for name, tensor in self._gathered(moments).items()}

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors in the first process, and nothing in the others, which help."""
        if not any(map(distribution.is_divided, tensors.values())):
            return dict(tensors)
        found = {}
        for name, tensor in tensors.items():
            gathered = distribution.whole(tensor)
            if self.world.rank == 0:
                found[name] = gathered.cpu()
        return found

    def restore(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        for name, parameter in self._names.items():
            moments = {moment: to_torch(state[f"{moment}.{name}"]) for moment in _MOMENTS}
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps)),
                **{key: distribution.like(value, parameter) for key, value in moments.items()},
            }

    def _tensors(self, inputs: Inputs) -> dict[str, Tensor]:
        device = self.model.device
        return {name: torch.as_tensor(array, device=device) for name, array in inputs.items()}


def _with_labels(batch: MicroBatch) -> Inputs:
    """Return the inputs of a micro-batch; without labels, with some that weigh nothing.

    Processes have to work on as many micro-batches, and the loss of no label is NaN.
    """
    if batch.weight:
        return batch.inputs
    return {**batch.inputs, "labels": np.zeros_like(batch.inputs["labels"])}


class _Loss(nn.Module):
    """A model's loss, in bfloat16 if asked for; a language model's without all its logits."""

    def __init__(self, model: Any, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._bf16 = bf16

    def forward(self, logits: bool = False, **inputs: Tensor) -> Any:
        """Return the loss; with `logits`, it and the logits, in float32."""
        device = self.model.device.type
        if logits:
            output = self.model(**inputs, return_dict=True)
            return output.loss, output.logits
        with torch.autocast(device, torch.bfloat16, enabled=self._bf16):
            if self.model.head is not Head.LM:
                return self.model(**inputs, return_dict=True).loss
            labels = inputs.pop("labels")
            hidden = self.model.transformer(**inputs, use_cache=False, return_dict=True)[0]
            # Each position predicts the token that follows.
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].reshape(-1).long()
            states = hidden.reshape(-1, hidden.size(-1))
            return linear_cross_entropy(states, self.model.lm_head.weight, targets)


def _compile(module: nn.Module, compiler: str) -> None:
    """Let `torch.compile` compile a module when it is first called.

    Raises InvalidInputError for a compiler that torch does not know.
    """
    check_choice("torch_compile_backend", compiler, torch.compiler.list_backends(exclude_tags=()))
    module.compile(backend=compiler)


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
