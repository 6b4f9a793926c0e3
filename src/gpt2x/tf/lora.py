"""The low-rank term of a layer in TensorFlow, and the hooks of `gpt2x.models.adapters`.

What is trained is `trainable`, so `model.trainable_variables` is what an optimizer takes, and `fit`
takes it. A compiled model has to be compiled again when that changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2x.checkpoint.adapter import Adapter, Factors
from gpt2x.config.lora import LoraConfig
from gpt2x.models.adapters import AdapterMixin, Installed, is_trained
from gpt2x.tf.dropout import Dropout
from gpt2x.tf.tracking import TrackedLayer
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import TENSORFLOW


class LowRank(TrackedLayer):
    """What LoRA adds to a layer: ``scaling * x A^T B^T``, A [r, in] and B [out, r].

    Source: arXiv:2106.09685.
    """

    def __init__(self, nf: int, nx: int, config: LoraConfig, **options: Any) -> None:
        super().__init__(**options)
        self.shapes = (config.r, nx), (nf, config.r)
        self.scaling = config.scaling
        self.dropout = Dropout(config.lora_dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        self.A, self.B = (
            self.add_weight(shape=shape, initializer="zeros", name=name)
            for name, shape in zip("AB", self.shapes, strict=True)
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map [..., in] to [N, out]; the factors may be wider than what the layer computes in."""
        flat = tf.reshape(self.dropout(x), [-1, self.A.shape[1]])  # [N, in]
        inner = tf.matmul(flat, self.A, transpose_b=True)  # [N, r]
        return tf.matmul(inner, self.B, transpose_b=True) * self.scaling


class LoraMixin(AdapterMixin):
    """Gives a TensorFlow model the hooks of adapters."""

    def _get_weight(self, name: str) -> LazyTensor:
        return lazy(name, dict(self._canonical_variables())[name])

    def _set_weight(self, name: str, value: np.ndarray) -> None:
        variable = dict(self._canonical_variables())[name]
        variable.assign(TENSORFLOW.layout(name).from_canonical(value))

    def _attach(self, config: LoraConfig, factors: Mapping[str, Factors]) -> None:
        places = dict(self._places())
        for layer, pair in factors.items():
            place = places[layer]
            policy = _wide(place.dtype_policy)
            low_rank = LowRank(place.nf, place.nx, config, name="lora", dtype=policy)
            # Keras names variables by the scope in which they are made.
            with ExitStack() as scopes:
                for part in place.path.split("/"):
                    scopes.enter_context(keras.name_scope(part))
                low_rank.build()
            low_rank.A.assign(pair.a.read())
            low_rank.B.assign(pair.b.read())
            # It locks what a built layer holds.
            place._tracker.unlock()
            place.lora = low_rank
            place._tracker.lock()

    def _detach(self) -> None:
        for _, place in self._adapted():
            place._tracker.untrack(place.lora)
            place.lora = None

    def _current_adapter(self) -> Adapter:
        assert self._adapter is not None
        factors = {
            layer: Factors(*(LazyTensor.of(part.numpy()) for part in (place.lora.A, place.lora.B)))
            for layer, place in self._adapted()
        }
        saved = {name: self._get_weight(name) for name in self._adapter.saved}
        return Adapter(self._adapter.config, factors, saved)

    def _places(self) -> Iterator[tuple[str, Any]]:
        """Yield canonical name and layer of each layer that may have a low-rank term."""
        names = {id(variable): name for name, variable in self._canonical_variables()}
        for layer in self._flatten_layers():
            if hasattr(layer, "lora"):
                yield names[id(layer.weight)].removesuffix(".weight"), layer

    def _adapted(self) -> list[tuple[str, Any]]:
        return [(name, layer) for name, layer in self._places() if layer.lora is not None]

    def _train_only(self, adapter: Installed | None) -> None:
        for name, variable in self._named_variables():
            is_free = adapter is None or (name is not None and is_trained(adapter, name))
            variable.trainable = is_free


def lazy(name: str, variable: keras.Variable) -> LazyTensor:
    """Name a variable in canonical layout without reading it."""
    layout = TENSORFLOW.layout(name)
    shape = layout.to_canonical(np.broadcast_to(np.empty(()), variable.shape)).shape
    dtype = np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype)
    return LazyTensor(shape, dtype, lambda: layout.to_canonical(variable.numpy()))


def _wide(policy: keras.DTypePolicy) -> Any:
    """Return a layer's dtype policy, but float32 where its weights are in half precision."""
    return "float32" if policy.variable_dtype in ("float16", "bfloat16") else policy
