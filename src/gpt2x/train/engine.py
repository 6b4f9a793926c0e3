"""What a framework brings to training: an engine of a few functions, over arrays of the host.

The loop, and all that a run decides, stand above it in this folder: which rows a step has, its
learning rate, the seeds of its dropout. So an engine holds nothing that a checkpoint would have to
keep besides the weights and AdamW's two moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

#: The model's arguments by name, among them the labels; each [rows, ...].
Inputs = Mapping[str, np.ndarray]


class MicroBatch(NamedTuple):
    """Rows that one device reads at once.

    Attributes:
        inputs: its rows.
        weight: its share in the loss of the step: of the labels of all its micro-batches, in every
            process, those that stand here. They sum to 1.
        seed: of its dropout, from 0 to 2**63 - 1.
        first_row: number of its first row, counted over the processes that have the same seed.
    """

    inputs: Inputs
    weight: float
    seed: int
    first_row: int = 0


class OptimizerSettings(NamedTuple):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) with clipped gradients.

    With gradients g, divided by max(1, norm / max_grad_norm) if that is above 0, at step t from 1:

        m = beta1 m + (1 - beta1) g              v = beta2 v + (1 - beta2) g**2
        p = p - rate decay p - rate (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon)

    Only matrices decay: embeddings and projections, not biases nor layer norms.
    """

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float


class EngineOptions(NamedTuple):
    """How an engine computes.

    Attributes:
        bf16: compute in bfloat16, with weights and moments in float32.
        gradient_checkpointing: compute the blocks again in the backward pass.
        mesh: of JAX's devices, such as "data=2,fsdp=2".
        fsdp: divide weights and moments between the processes; PyTorch alone has it.
        torch_compile: the compiler that `torch.compile` gives the loss to; None compiles nothing.
        same_dropout: draw dropout as `gpt2x.train.dropout` says, in each framework the same.
    """

    bf16: bool = False
    gradient_checkpointing: bool = False
    mesh: str | None = None
    fsdp: bool = False
    torch_compile: str | None = None
    same_dropout: bool = False


class World(NamedTuple):
    """The processes and devices that train together.

    Attributes:
        rank: number of this process; 0 writes files and reports.
        processes: how many there are.
        devices: of this process, between which a micro-batch is divided by its rows.
        is_one_program: whether an evaluation is one of all processes: each calls it with the rows
            of all, and gets what all have computed together.
    """

    rank: int = 0
    processes: int = 1
    devices: int = 1
    is_one_program: bool = False


class StepResult(NamedTuple):
    """What a step gave, as scalars of the framework: `float` waits until they are computed.

    Attributes:
        loss: the mean over the labels of the step.
        grad_norm: of all gradients together, before they are clipped.
    """

    loss: Any
    grad_norm: Any


class Evaluated(NamedTuple):
    """What a model makes of rows.

    Attributes:
        loss: the mean over their labels, float.
        logits: float32 [rows, ...], if they were asked for.
    """

    loss: float
    logits: np.ndarray | None


class Engine(Protocol):
    """One framework's part in training.

    It is the class `Engine` of a backend's module `training`, made by

        Engine(load, settings, options)

    of an `OptimizerSettings`, an `EngineOptions`, and a function without arguments that loads the
    model: the engine calls it once, where its framework wants models to be made. Arrays that come
    in and go out are the host's.

    Attributes:
        model: what is trained.
        world: the processes.
    """

    model: Any
    world: World

    def step(
        self, micro_batches: Sequence[MicroBatch], number: int, learning_rate: float
    ) -> StepResult:
        """Make one step of the optimizer; `number` counts from 1."""

    def evaluate(self, inputs: Inputs, *, logits: bool) -> Evaluated:
        """Return the loss of rows, without dropout; their logits if asked for."""

    def sampled(self) -> AbstractContextManager[Any]:
        """Return a context in which the model that it gives can be called.

        Every process enters it, and calls the model in the same way.
        """

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of values float64 [N] over the processes, in each of them."""

    def save(self, folder: Path) -> None:
        """Write the model's files; called in every process, and writes in the first."""

    def state(self) -> dict[str, np.ndarray]:
        """Return AdamW's moments: ``exp_avg.NAME`` and ``exp_avg_sq.NAME``, float32.

        It is called in every process; what it returns in the first counts. Names and layouts are
        the canonical ones of `gpt2x.weights.table`, so that a run can go on in another framework.
        """

    def restore(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Take the moments that `state` gave after so many steps."""
