"""Models on many devices, a `jax.sharding.Mesh`.

The rules are those of tensor parallelism (Shoeybi et al., Megatron-LM, arXiv:1909.08053): the first
of two projections that follow each other (`c_attn`, `q_attn`, `c_fc`) is split by its outputs, the
second (`c_proj`) by its inputs, embeddings and heads by their rows. The caller splits the inputs
over the mesh's data axis. XLA adds the communication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2x.errors import InvalidInputError
from gpt2x.flax.parameters import ParameterPath, flatten, unflatten

#: Chooses the partition of a parameter by its path.
Rule = Callable[[ParameterPath], PartitionSpec]

_SPLIT_BY_OUTPUT = ("c_attn", "q_attn", "c_fc")


def partition_rule(path: ParameterPath, axis: str = "model") -> PartitionSpec:
    """Return the partition of a parameter over the mesh axis `axis`.

    >>> partition_rule(("transformer", "h", "0", "mlp", "c_fc", "kernel"))
    PartitionSpec('model', None)
    """
    module, leaf = path[-2:]
    if module in _SPLIT_BY_OUTPUT:
        return PartitionSpec(axis, None) if leaf == "kernel" else PartitionSpec(axis)
    if module == "c_proj" and leaf == "kernel":  # (out, in)
        return PartitionSpec(None, axis)
    if module == "wte":
        return PartitionSpec(axis, None)
    if module == "lm_head":  # (in, out)
        return PartitionSpec(None, axis)
    return PartitionSpec()


def check_automatic(arrays: Any) -> None:
    """Raise if arrays of a tree lie on explicit mesh axes, over which XLA chooses no shardings."""
    for array in jax.tree.leaves(arrays):
        sharding = jax.typeof(array).sharding
        if any(sharding.spec) and AxisType.Explicit in sharding.mesh.axis_types:
            mesh = sharding.mesh
            raise InvalidInputError(
                "The mesh has explicit axes; gpt2x needs axes over which XLA chooses the split. "
                "Wrap the function that calls the model in jax.sharding.auto_axes(function, "
                "out_sharding=...), or make the mesh with "
                f"jax.make_mesh({tuple(mesh.axis_sizes)}, {mesh.axis_names}, axis_types="
                f"(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)})."
            )


def param_shardings(params: Mapping[str, Any], mesh: Mesh, rule: Rule = partition_rule) -> Any:
    """Return a tree of `NamedSharding` for the tree `params` (of arrays or of shapes).

    A dimension is not split if the axis does not divide it: 50,257 tokens stay whole. If the axes
    of the mesh are explicit, which is the default of `jax.make_mesh`, JAX does not let XLA choose
    the shardings of intermediate arrays. Then call the model inside `jax.sharding.auto_axes`.
    """

    def sharding(path: ParameterPath, array: Any) -> NamedSharding:
        spec = rule(path)
        divided = [
            name if name is not None and size % mesh.shape[name] == 0 else None
            for name, size in zip(spec, array.shape, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*divided))

    shardings = {path: sharding(path, array) for path, array in flatten(params)}
    return unflatten(shardings, like=params)


def shard_params(params: Mapping[str, Any], mesh: Mesh, rule: Rule = partition_rule) -> Any:
    """Put the parameters on the mesh; set `model.params` to them, or pass them as `params=`."""
    arrays = unflatten(dict(flatten(params)), like=params)
    return jax.device_put(arrays, param_shardings(params, mesh, rule))
