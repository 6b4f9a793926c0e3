"""The low-rank term of a layer in Flax, and the hooks of `gpt2x.models.adapters`.

What is trained is a filter, `trainable`, that an optimizer and `nnx.grad` take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from flax import nnx
from gpt2x.checkpoint.adapter import Adapter, Factors
from gpt2x.config.lora import LoraConfig
from gpt2x.errors import InvalidInputError
from gpt2x.flax.cpu.products import project
from gpt2x.flax.dropout import dropout
from gpt2x.models.adapters import AdapterMixin, Installed, is_trained
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import FLAX


class LowRank(nnx.Module):
    """What LoRA adds to a layer: ``scaling * x A^T B^T``, A [r, in] and B [out, r].

    Source: arXiv:2106.09685.
    """

    def __init__(self, a: Array, b: Array, config: LoraConfig) -> None:
        self.A = nnx.LoRAParam(a)
        self.B = nnx.LoRAParam(b)
        self.scaling = config.scaling
        self.rate = config.lora_dropout

    def __call__(self, x: Array, dropout_key: Array | None = None) -> Array:
        """Map [..., in] to [..., out], computed in the dtype of x."""
        x = dropout(x, rate=self.rate, key=dropout_key)
        inner = project(x, self.A[...].astype(x.dtype))  # [..., r]
        return project(inner, self.B[...].astype(x.dtype)) * self.scaling


@dataclass(frozen=True)
class Trained:
    """The filter of what an adapter trains; equal ones need no second compilation."""

    adapter: Installed

    def __call__(self, path: tuple[Any, ...], variable: Any) -> bool:
        """Return whether a variable at a path of the model is trained."""
        try:
            name = FLAX.canonical("/".join(map(str, path)))
        except InvalidInputError:  # of a user's own module
            return False
        return is_trained(self.adapter, name)


def trainable(model: AdapterMixin) -> Any:
    """Return the filter of the parameters that are trained: all, or those of the adapter.

    >>> import jax
    >>> from gpt2x import FlaxGPT2LMHeadModel, GPT2Config
    >>> model = FlaxGPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4))
    >>> model.add_adapter({"r": 4})
    >>> len(jax.tree.leaves(nnx.state(model, trainable(model))))
    4

    An optimizer takes it as ``nnx.Optimizer(model, tx, wrt=trainable(model))``, and gradients as
    ``nnx.grad(loss, argnums=nnx.DiffState(0, trainable(model)))``.
    """
    return nnx.Param if model._adapter is None else Trained(model._adapter)


class LoraMixin(AdapterMixin):
    """Gives a Flax model the hooks of adapters."""

    def _get_weight(self, name: str) -> LazyTensor:
        return lazy(name, self._parameters()[self._path(name)].get_value())

    def _set_weight(self, name: str, value: np.ndarray) -> None:
        variable = self._parameters()[self._path(name)]
        # A copy, since JAX may keep the memory of numpy's array.
        array = jnp.array(FLAX.layout(name).from_canonical(value), dtype=variable.dtype)
        variable.set_value(array)

    def _attach(self, config: LoraConfig, factors: Mapping[str, Factors]) -> None:
        self._check_initialized()
        for layer, pair in factors.items():
            place = self._place(layer)
            dtype = jnp.promote_types(place.kernel.dtype, jnp.float32)
            a, b = (jnp.array(part.read(), dtype=dtype) for part in (pair.a, pair.b))
            place.lora = nnx.data(LowRank(a, b, config))

    def _detach(self) -> None:
        for _, place in list(self._adapted()):
            place.lora = nnx.static(None)

    def _current_adapter(self) -> Adapter:
        assert self._adapter is not None
        factors = {
            layer: Factors(
                *(LazyTensor.of(np.asarray(part[...])) for part in (place.lora.A, place.lora.B))
            )
            for layer, place in self._adapted()
        }
        saved = {name: self._get_weight(name) for name in self._adapter.saved}
        return Adapter(self._adapter.config, factors, saved)

    def _place(self, layer: str) -> Any:
        """Return the module of a layer by its canonical name."""
        place: Any = self
        for part in self._path(f"{layer}.weight")[:-1]:
            place = place[int(part)] if part.isdigit() else getattr(place, part)
        return place

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        """Yield canonical name and module of each layer that has a low-rank term."""
        for path in self._parameters():
            if path[-2:] == ("lora", "A"):
                layer = FLAX.canonical("/".join(path)).removesuffix(".lora.A")
                yield layer, self._place(layer)

    def _adapter_dropout(self) -> float:
        """Return the rate of the dropout of the low-rank terms; a body knows them alone."""
        return next((place.lora.rate for _, place in self._adapted()), 0.0)

    def _train_only(self, adapter: Installed | None) -> None:
        """Nothing: whoever makes the optimizer asks `trainable`."""


def lazy(name: str, array: Array) -> LazyTensor:
    """Name a parameter in canonical layout without copying it from where it is."""
    layout = FLAX.layout(name)
    shape = layout.shape(array.shape)
    return LazyTensor(shape, np.dtype(array.dtype), lambda: layout.to_canonical(np.asarray(array)))
