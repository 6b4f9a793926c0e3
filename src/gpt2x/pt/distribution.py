"""Processes that train one model together, as torchrun starts them.

With DDP each holds the whole model; with FSDP2 each holds a part of every tensor, of its gradient
and of its moments, and whole tensors exist for the layers at work alone. Either averages gradients
over the processes.
"""

from __future__ import annotations

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gpt2x.errors import InvalidInputError
from gpt2x.train.engine import World

# What torchrun tells a process, and `init_process_group` reads.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join() -> World:
    """Join the other processes, if there are any.

    Raises InvalidInputError if this process has no accelerator of its own where there are some.
    """
    if not distributed.is_available():
        return World()
    if not distributed.is_initialized():
        if any(name not in os.environ for name in _LAUNCHED):
            return World()
        device = _take_device()
        # The host's numbers travel by gloo, without waiting for the device.
        backend = "gloo"
        if device.type != "cpu":
            of_device = distributed.get_default_backend_for_device(device)
            backend = f"cpu:gloo,{device.type}:{of_device}"
        distributed.init_process_group(backend)
        atexit.register(_leave)
    return World(distributed.get_rank(), distributed.get_world_size())


def is_joined() -> bool:
    """Return whether this process is one of a group, even if it is alone there."""
    return distributed.is_available() and distributed.is_initialized()


def _leave() -> None:
    if is_joined():
        distributed.destroy_process_group()


def device() -> torch.device:
    """Return the accelerator of this process, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _take_device() -> torch.device:
    """Take the accelerator whose number is that of this process on its machine."""
    found, number = device(), int(os.environ.get("LOCAL_RANK", 0))
    if found.type == "cpu":
        return found
    count = torch.accelerator.device_count()
    if number >= count:
        raise InvalidInputError(
            f"torchrun starts more processes than there are accelerators on this machine: {count}. "
            f"Pass --nproc-per-node={count} or fewer."
        )
    torch.accelerator.set_device_index(number)
    return found


def replicated(module: nn.Module) -> nn.Module:
    """Return a module whose gradients are averaged over the processes (DDP)."""
    return DistributedDataParallel(module, broadcast_buffers=False)


def shard(module: nn.Module, blocks: Any) -> None:
    """Divide a module's tensors between the processes, and move them to the device (FSDP2).

    Args:
        module: what is called; what does not stand in a block is gathered when it is.
        blocks: its parts that are gathered one after another.
    """
    mesh = init_device_mesh(device().type, (distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; of one that is divided, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor, which each process has, on a parameter's device, divided as it is."""
    tensor = tensor.to(parameter.device, parameter.dtype)
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def is_divided(tensor: Tensor) -> bool:
    """Return whether each process holds a part of a tensor."""
    return isinstance(tensor, DTensor)


def gather(module: nn.Module) -> None:
    """Make whole the tensors of a module that is sharded, those of its blocks left out."""
    if isinstance(module, FSDPModule):
        module.unshard()


def release(module: nn.Module) -> None:
    """Give up the whole tensors that a call without a backward pass has left, if it is sharded."""
    if isinstance(module, FSDPModule):
        module.reshard()


def averaging(module: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Let a backward pass average the gradients, or leave that to a later one.

    What is sharded averages each time: it has no room for whole gradients.
    """
    if now or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def add_up(tensor: Tensor) -> None:
    """Replace values by their sums over the processes."""
    distributed.all_reduce(tensor)
