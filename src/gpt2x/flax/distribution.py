"""Training on several devices of one process: rows and weights are divided over a mesh.

Rows are divided over the axes "data" and "fsdp". Weights and moments are divided over "fsdp"
alone, and gathered where they are used (ZeRO-3: Rajbhandari et al., arXiv:1910.02054); XLA adds the
communication.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2x.errors import InvalidInputError

DATA, FSDP = AXES = ("data", "fsdp")


class Distribution:
    """Where the arrays of a run lie.

    Args:
        mesh: such as "data=2,fsdp=2"; None for one device.

    Attributes:
        devices: how many there are.

    Raises:
        InvalidInputError: if the mesh cannot be read, or there are too few devices.
    """

    def __init__(self, mesh: str | None) -> None:
        self._mesh = None if mesh is None else _mesh(mesh)
        self.devices = 1 if self._mesh is None else self._mesh.size

    def of_weights(self, arrays: Mapping[Any, Array]) -> dict[Any, Array]:
        """Put weights, or their moments, where they belong."""
        return {name: self._put(array, self._split(array.shape)) for name, array in arrays.items()}

    def of_rows(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Put the rows of a micro-batch where they belong: whole, if they cannot be divided."""
        is_divisible = all(len(array) % self.devices == 0 for array in inputs.values())
        spec = PartitionSpec(AXES) if is_divisible else PartitionSpec()
        return {name: self._put(array, spec) for name, array in inputs.items()}

    def shardings(self, arrays: Any) -> Any:
        """Return how arrays of a tree are divided; None on one device, where nothing is."""
        if self._mesh is None:
            return None
        return jax.tree.map(lambda array: array.sharding, arrays)

    def _put(self, array: Any, spec: PartitionSpec) -> Array:
        if self._mesh is None:
            return jax.numpy.asarray(array)
        return jax.device_put(array, NamedSharding(self._mesh, spec))

    def _split(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Divide the first dimension that can be; a vector stays whole."""
        if self._mesh is None or len(shape) < 2:
            return PartitionSpec()
        size = self._mesh.shape[FSDP]
        for axis, length in enumerate(shape):
            if length % size == 0:
                return PartitionSpec(*[None] * axis, FSDP)
        return PartitionSpec()


def _mesh(text: str) -> Mesh:
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        found = re.fullmatch(rf"({'|'.join(AXES)})=([1-9]\d*)", part.strip())
        if found is None:
            raise InvalidInputError(f"mesh is {text!r}; it must be such as data=2,fsdp=2.")
        sizes[found[1]] = int(found[2])
    wanted, devices = math.prod(sizes.values()), jax.devices()
    if wanted > len(devices):
        raise InvalidInputError(f"mesh {text!r} needs {wanted} devices; there are {len(devices)}.")
    grid = np.array(devices[:wanted]).reshape(*sizes.values())
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
