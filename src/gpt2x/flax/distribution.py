"""Training on several devices, of one process or of several: rows and weights are divided.

Rows are divided over the axes "data" and "fsdp" of a mesh. Weights and moments are divided over
"fsdp" alone, and gathered where they are used (ZeRO-3: Rajbhandari et al., arXiv:1910.02054); XLA
adds the communication. Processes that have joined run the same program over the devices of all.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2x.errors import InvalidInputError
from gpt2x.train.engine import World

DATA, FSDP = AXES = ("data", "fsdp")

# Who starts a process sets them. Under Slurm, Open MPI and Kubernetes JAX finds the numbers itself.
_ADDRESS, _PROCESSES, _PROCESS = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)


def join() -> World:
    """Join the other processes, if there are any.

    Raises InvalidInputError if the environment does not say how.
    """
    if not jax.distributed.is_initialized():
        if _ADDRESS not in os.environ:
            return World()
        try:
            jax.distributed.initialize(
                num_processes=_number(_PROCESSES), process_id=_number(_PROCESS)
            )
        except (ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"This process cannot join the others: {error} Set {_ADDRESS} to HOST:PORT of the "
                f"first process, {_PROCESSES} to their number, and {_PROCESS} to the number of "
                "this one, from 0, before JAX computes anything."
            ) from error
    return World(jax.process_index(), jax.process_count(), is_one_program=jax.process_count() > 1)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    return None if text is None else int(text)


class Distribution:
    """Where the arrays of a run lie.

    Args:
        mesh: such as "data=2,fsdp=2"; None for one device of one process, and for data=N on the N
            devices of several processes.

    Attributes:
        world: the processes, and the devices of this one.

    Raises:
        InvalidInputError: if the mesh cannot be read, or there are other devices.
    """

    def __init__(self, mesh: str | None) -> None:
        world = join()
        self._is_alone = world.processes == 1
        if mesh is None and not self._is_alone:
            mesh = f"{DATA}={jax.device_count()}"
        self._mesh = None if mesh is None else _mesh(mesh, world.processes)
        devices = 1 if self._mesh is None else self._mesh.size // world.processes
        self.world = world._replace(devices=devices)

    def of_weights(self, arrays: Mapping[Any, Any]) -> dict[Any, Array]:
        """Put weights, or their moments, where they belong."""
        return {name: self._put(array, self._split(array.shape)) for name, array in arrays.items()}

    def of_rows(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Put the rows that each process has as its own on its devices."""
        if self._is_alone:
            return self.of_all_rows(inputs)
        return {name: self.of_process(array) for name, array in inputs.items()}

    def of_all_rows(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Divide rows that every process has over all devices: whole, if they cannot be divided."""
        devices = self.world.devices * self.world.processes
        is_divisible = all(len(array) % devices == 0 for array in inputs.values())
        spec = PartitionSpec(AXES) if is_divisible else PartitionSpec()
        return {name: self._put(array, spec) for name, array in inputs.items()}

    def of_process(self, array: np.ndarray) -> Array:
        """Join arrays [devices of a process, ...] of the processes to one [all devices, ...]."""
        if self._is_alone:
            return jax.numpy.asarray(array)
        assert self._mesh is not None
        sharding = NamedSharding(self._mesh, PartitionSpec(AXES))
        return jax.make_array_from_process_local_data(sharding, array)

    def whole(self, array: Array) -> np.ndarray:
        """Return all of an array; every process must ask for it."""
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        found: np.ndarray = multihost_utils.process_allgather(array, tiled=True)
        return found

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of values float64 [N] over the processes."""
        if self._is_alone:
            return values
        # JAX would make them float32.
        halves = multihost_utils.process_allgather(values.view(np.uint32), tiled=False)
        sums: np.ndarray = np.ascontiguousarray(halves).view(np.float64).sum(axis=0)
        return sums

    def shardings(self, arrays: Any) -> Any:
        """Return how arrays of a tree are divided; None on one device, where nothing is."""
        if self._mesh is None:
            return None
        return jax.tree.map(lambda array: array.sharding, arrays)

    def _put(self, array: Any, spec: PartitionSpec) -> Array:
        if self._mesh is None:
            return jax.numpy.asarray(array)
        sharding = NamedSharding(self._mesh, spec)
        if self._is_alone:
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    def _split(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Divide the first dimension that can be; a vector stays whole."""
        if self._mesh is None or len(shape) < 2:
            return PartitionSpec()
        size = self._mesh.shape[FSDP]
        for axis, length in enumerate(shape):
            if length % size == 0:
                return PartitionSpec(*[None] * axis, FSDP)
        return PartitionSpec()


def _mesh(text: str, processes: int) -> Mesh:
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        found = re.fullmatch(rf"({'|'.join(AXES)})=([1-9]\d*)", part.strip())
        if found is None:
            raise InvalidInputError(f"mesh is {text!r}; it must be such as data=2,fsdp=2.")
        sizes[found[1]] = int(found[2])
    wanted, devices = math.prod(sizes.values()), jax.devices()
    if wanted > len(devices):
        raise InvalidInputError(f"mesh {text!r} needs {wanted} devices; there are {len(devices)}.")
    if processes > 1 and wanted < len(devices):
        raise InvalidInputError(
            f"mesh {text!r} takes {wanted} devices; {processes} processes must take all of theirs, "
            f"{len(devices)}."
        )
    grid = np.array(devices[:wanted]).reshape(*sizes.values())
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
