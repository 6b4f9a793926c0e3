"""Parameters of modules: made without arrays, with the names of transformers' Flax models.

A path is a tuple of strings, ``("transformer", "h", "0", "attn", "c_attn", "kernel")``. Joined by
slashes, it is the name of the parameter in `gpt2x.weights.table.FLAX`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, freeze
from jax import Array

from flax import nnx
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError

#: See the module.
ParameterPath = tuple[str, ...]


@dataclass(frozen=True)
class Precision:
    """The dtypes of a model: `dtype` of its computation, `param_dtype` of its stored parameters."""

    dtype: np.dtype[Any]
    param_dtype: np.dtype[Any]

    @classmethod
    def of(cls, dtype: Any, param_dtype: Any) -> Precision:
        return cls(_floating("dtype", dtype), _floating("param_dtype", param_dtype))

    def layer_norm(self, config: GPT2Config) -> nnx.LayerNorm:
        """Return a layer norm; it computes in float32, whatever its dtype."""
        return nnx.LayerNorm(
            config.n_embd,
            epsilon=config.layer_norm_epsilon,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            scale_init=_empty,
            bias_init=_empty,
            # The fast variance, E[x^2] - E[x]^2, loses digits.
            use_fast_variance=False,
            rngs=_NO_RNGS,
        )

    def embedding(self, rows: int, features: int) -> nnx.Embed:
        return nnx.Embed(
            rows,
            features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            embedding_init=_empty,
            rngs=_NO_RNGS,
        )

    def linear(self, n_in: int, n_out: int, *, use_bias: bool) -> nnx.Linear:
        """Return a layer of a head: kernel (in, out)."""
        return nnx.Linear(
            n_in,
            n_out,
            use_bias=use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=_empty,
            bias_init=_empty,
            rngs=_NO_RNGS,
        )


def parameter(shape: tuple[int, ...], precision: Precision) -> nnx.Param:
    """Return a parameter without an array."""
    return nnx.Param(_empty(None, shape, precision.param_dtype))


def _empty(key: Any, shape: tuple[int, ...], dtype: Any, *_: Any) -> Any:
    """Return only the shape: the arrays are made later, all at once, of a seed or a file."""
    return jax.ShapeDtypeStruct(shape, dtype)


class _NoRngs:
    """Replaces `nnx.Rngs`, which would draw keys that nothing uses."""

    def params(self) -> None:
        return None


_NO_RNGS: Any = _NoRngs()


def _floating(name: str, dtype: Any) -> np.dtype[Any]:
    try:
        found = None if dtype is None else jnp.dtype(dtype)  # numpy makes None float64
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise InvalidInputError(
            f"{name} must be a floating dtype such as jnp.float32 or jnp.bfloat16; got {dtype!r}."
        )
    return found


def variables_of(module: nnx.Module) -> tuple[list[tuple[ParameterPath, nnx.Variable]], Any]:
    """Return every variable of a module with its path, and the structure to unflatten others."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
    return [(tuple(map(_key_name, path)), leaf) for path, leaf in leaves], tree


def _key_name(key: Any) -> str:
    return str(getattr(key, "name", getattr(key, "idx", getattr(key, "key", None))))


def flatten(
    params: Mapping[Any, Any], path: ParameterPath = ()
) -> Iterator[tuple[ParameterPath, Any]]:
    """Yield paths and arrays of a nested dict, FrozenDict or `nnx.State`; keys may be integers."""
    if not isinstance(params, Mapping):
        raise InvalidInputError(
            "params must be a tree of arrays: nested dicts, a FrozenDict or an nnx.State; got "
            f"{type(params).__name__}."
        )
    for name, value in params.items():
        here = (*path, str(name))
        if isinstance(value, Mapping):
            yield from flatten(value, here)
        else:
            yield here, value.get_value() if isinstance(value, nnx.Variable) else value


def unflatten(arrays: Mapping[ParameterPath, Any], like: Any = None) -> Any:
    """Return the nested dict of arrays that are given by path; a FrozenDict if `like` is one."""
    nested: dict[str, Any] = {}
    for path, array in arrays.items():
        level = nested
        for name in path[:-1]:
            level = level.setdefault(name, {})
        level[path[-1]] = array
    return freeze(nested) if isinstance(like, FrozenDict) else nested


def check_params(
    params: Mapping[ParameterPath, Any], expected: Mapping[ParameterPath, Any]
) -> None:
    """Raise InvalidInputError unless params have the paths and shapes that a model expects."""
    missing = ["/".join(path) for path in expected if path not in params]
    unexpected = ["/".join(path) for path in params if path not in expected]
    if missing or unexpected:
        raise InvalidInputError(
            f"params do not fit the model. Missing: {', '.join(missing) or 'none'}. "
            f"Unexpected: {', '.join(unexpected) or 'none'}. They must have the tree of "
            "model.params_shape_tree."
        )
    wrong = [
        f"{'/'.join(path)} is {np.shape(params[path])}, the model's {tuple(array.shape)}"
        for path, array in expected.items()
        if np.shape(params[path]) != tuple(array.shape)
    ]
    if wrong:
        raise InvalidInputError(f"params do not fit the model: {'; '.join(wrong)}.")


@partial(jax.jit, static_argnums=1)
def draw_normal(key: Array, shapes: tuple[tuple[tuple[int, ...], float], ...]) -> list[Array]:
    """Return normal arrays of the given shapes and standard deviations, float32."""
    sizes = [math.prod(shape) for shape, _ in shapes]
    noise = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) * std for part, (shape, std) in zip(noise, shapes, strict=True)]


def cast_floating(params: Mapping[str, Any], dtype: Any, mask: Any) -> Any:
    """Return params with their floating arrays in dtype: all, or where the tree `mask` is true."""
    arrays = dict(flatten(params))
    chosen = dict.fromkeys(arrays, True) if mask is None else dict(flatten(mask))
    if set(chosen) != set(arrays):
        raise InvalidInputError("mask must be a tree of booleans with the paths of params.")

    def cast(path: ParameterPath, array: Any) -> Any:
        is_floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(dtype) if chosen[path] and is_floating else array

    return unflatten({path: cast(path, array) for path, array in arrays.items()}, like=params)


def resized(weight: Array, rows: int, std: float | None, key: Array) -> Array:
    """Return weight [V, E] cut or grown to `rows`; new rows are the mean, or drawn with `std`."""
    shape = (max(rows - weight.shape[0], 0), weight.shape[1])
    if std is None:
        new = jnp.broadcast_to(weight.astype(jnp.float32).mean(axis=0), shape)
    else:
        new = jax.random.normal(key, shape) * std
    return jnp.concatenate([weight[:rows], new.astype(weight.dtype)])
