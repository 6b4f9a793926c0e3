"""`KVCache`: the attention keys and values of the tokens seen so far.

B batch, H heads, T new tokens, S tokens in all, D head_dim, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import optree
import tensorflow as tf

from gpt2x.config import GPT2Config
from gpt2x.models.cache import CacheMixin, buffer_shape

Pair = tuple[tf.Tensor, tf.Tensor]


class KVCache(CacheMixin):
    """Keys and values of every layer, with room for more.

    Each layer has two buffers [B, H, max_length, D], of which the first `length` positions are
    filled. One made by `create` or `extend` has a `length` of its own, a tensor: shapes stay the
    same from step to step, as XLA wants. One made by a forward that was given none, or from a
    tuple, is *full*: new tokens are appended by concatenation, differentiably.

    Tensors are never written in place. A model that is given a cache returns a new one, and the old
    one can be continued in another way.

    `cache[layer]` is the filled part `(keys, values)` of a layer, so that a cache reads like
    transformers' tuple of pairs. Cross-attention keys and values, which depend on the encoder
    alone, are kept beside them after the first call.

    A pytree for TensorFlow (`tf.function`, `tf.while_loop`) and for Keras.

    >>> from gpt2x import GPT2Config
    >>> cache = KVCache.create(GPT2Config(), batch_size=2, max_length=64)
    >>> cache.length, cache.max_length, cache.keys[0].shape
    (0, 64, TensorShape([2, 12, 64, 64]))
    """

    _is_array = staticmethod(lambda value: hasattr(value, "shape") and hasattr(value, "dtype"))
    _takes_stacked = True
    _to_numpy = staticmethod(lambda tensor: tensor.numpy())
    _from_numpy = staticmethod(tf.convert_to_tensor)

    def __init__(
        self,
        keys: Sequence[tf.Tensor | None],
        values: Sequence[tf.Tensor | None],
        length: tf.Tensor | None = None,
        cross_keys: Sequence[tf.Tensor | None] | None = None,
        cross_values: Sequence[tf.Tensor | None] | None = None,
    ) -> None:
        self.keys: list[Any] = list(keys)
        self.values: list[Any] = list(values)
        self._length = length
        self.starts: tf.Tensor | None = None  # see `at`
        self.cross_keys: list[Any] = list(cross_keys or [None] * len(self.keys))
        self.cross_values: list[Any] = list(cross_values or [None] * len(self.keys))

    @classmethod
    def create(
        cls,
        config: GPT2Config,
        batch_size: int | tf.Tensor,
        max_length: int | tf.Tensor,
        dtype: tf.DType | str | None = None,
        spare: int = 0,
        n_layer: int | None = None,
    ) -> Self:
        """Allocate a cache for `batch_size` rows of `max_length` tokens.

        `dtype` defaults to the config's, and that to float32; `n_layer` to the config's. `spare`
        more may be written, of which only some are kept.
        """
        shape = buffer_shape(config, batch_size, max_length, spare)
        layers = config.n_layer if n_layer is None else n_layer
        empty = [tf.zeros(shape, dtype or config.dtype or "float32")] * layers
        return cls(empty, empty, tf.constant(0, tf.int32))

    def to_stacked(self) -> tuple[tf.Tensor, ...]:
        """Return the filled part as one tensor [2, B, H, S, D] per layer."""
        return tuple(tf.stack(pair) for pair in self)

    # --- reading ---

    @property
    def is_full(self) -> bool:
        """Whether every position is filled, so that new tokens are appended."""
        return self._length is None

    @property
    def shows_room(self) -> bool:
        """Whether `update` returns all positions, so that those not filled have to be masked."""
        is_known = self.starts is None and isinstance(self.length, int)
        return self._length is not None and not is_known

    @property
    def length(self) -> int | tf.Tensor:
        """Filled positions: an int where it is known, an int32 scalar inside a graph."""
        if self._length is None:
            return self.max_length
        known = tf.get_static_value(self._length)
        return self._length if known is None else int(known)

    def _size(self, axis: int) -> int | tf.Tensor:
        return _size(self.keys[0], axis)

    def __repr__(self) -> str:
        if isinstance(self.keys[0], str):  # Keras's error reports put strings in place of tensors
            return f"{type(self).__name__}(layers={len(self)}, keys[0]={self.keys[0]})"
        return super().__repr__()

    # --- writing ---

    def update(self, layer: int, key: tf.Tensor, value: tf.Tensor) -> Pair:
        """Append key and value [B, H, T, D] to a layer; return all of it, [B, H, S, D] each.

        If `shows_room`, S is `max_length`: where the length is not known until the graph runs, or
        each row has its own. What lies behind the new tokens has to be masked. The length stays
        until `advance`, which a model calls after its last layer.
        """
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            keys, values = key, value
        else:
            keys, values = self._append(keys, key), self._append(values, value)
        self.keys[layer], self.values[layer] = keys, values
        if self._length is not None and not self.shows_room:
            end = self.length + _size(key, 2)  # nobody looks at room that is known to be empty
            keys, values = keys[:, :, :end], values[:, :, :end]
        return tf.cast(keys, key.dtype), tf.cast(values, value.dtype)

    def _append(self, buffer: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        new = tf.cast(new, buffer.dtype)
        if self._length is None:
            return tf.concat([buffer, new], axis=2)
        if self.starts is not None:
            return _written(buffer, new, self.starts)
        known, room = tf.get_static_value(self._length), buffer.shape[2]
        count = new.shape[2]
        if known is not None and None not in (room, count) and known + count > room:
            return tf.concat([buffer[:, :, :known], new], axis=2)
        # A choice by position, for every slot: of all ways to write at a place that only the graph
        # knows it is the fastest under XLA, and the only one that also works outside.
        slot = tf.range(_size(buffer, 2)) - self._length  # [max_length]; 0 at the first new token
        if count != 1:
            new = tf.gather(new, tf.clip_by_value(slot, 0, _size(new, 2) - 1), axis=2)
        is_new = (slot >= 0) & (slot < (1 if count == 1 else _size(new, 2)))
        written = tf.where(is_new[:, None], new, buffer)
        written.set_shape(buffer.shape)
        return written

    def update_cross(self, layer: int, key: tf.Tensor, value: tf.Tensor) -> None:
        """Keep the cross-attention keys and values [B, H, encoder length, D] of a layer."""
        self.cross_keys[layer], self.cross_values[layer] = key, value

    def advance(self, count: int | tf.Tensor) -> None:
        """Count `count` more positions as filled."""
        if self._length is not None:
            self._length = self._length + count

    # --- changing as a whole; each returns a new cache ---

    def at(self, start: int | tf.Tensor) -> Self:
        """Let the next tokens be written at column `start`, or at one of each row, int [B].

        In the second case `length` is the largest of them, until the next `at`; a mask has to hide
        what lies behind the end of a row, and tokens beyond the room are dropped.
        """
        cache = self.fork()
        starts = tf.convert_to_tensor(start, tf.int32)
        cache.starts = starts if starts.shape.rank else None
        cache._length = tf.reduce_max(starts) if starts.shape.rank else starts
        return cache

    def reorder(self, parents: tf.Tensor) -> Self:
        """Make row i continue row `parents[i]`; `parents` [any number of rows] may repeat rows."""
        reordered = self._map(lambda buffer: tf.gather(buffer, parents))
        reordered.know(None)
        return reordered

    def _repeated(self, buffer: tf.Tensor, copies: int | tf.Tensor) -> tf.Tensor:
        return tf.repeat(buffer, copies, axis=0)

    def crop(self, length: int | tf.Tensor) -> Self:
        """Forget all but the first `length` positions; a negative int drops from the end."""
        kept = self._kept(length)
        cropped = self.fork()
        cropped.know(self._text_until(kept))
        if self._length is None:
            cropped.keys = [key[:, :, :kept] for key in self.keys]
            cropped.values = [value[:, :, :kept] for value in self.values]
        else:
            cropped._length = tf.convert_to_tensor(kept, tf.int32)
        return cropped

    def extend(self, max_length: int) -> Self:
        """Make room for `max_length` positions in all; what is filled stays."""
        self._check_room(max_length)

        def enlarge(buffer: tf.Tensor) -> tf.Tensor:
            room = tf.maximum(max_length - _size(buffer, 2), 0)
            larger = tf.pad(buffer, [[0, 0], [0, 0], [0, room], [0, 0]])
            if buffer.shape[2] is not None:
                larger = tf.ensure_shape(
                    larger, [*buffer.shape[:2], max(max_length, buffer.shape[2]), buffer.shape[3]]
                )
            return larger

        extended = self.fork()
        extended._length = tf.convert_to_tensor(self.length, tf.int32)
        extended.keys = [enlarge(key) for key in self.keys]
        extended.values = [enlarge(value) for value in self.values]
        return extended

    # --- pytree: TensorFlow looks for these two methods, and takes no None ---

    def __tf_flatten__(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        parts = {name: tuple(getattr(self, name)) for name in self._parts}
        present = {name: part for name, part in parts.items() if part[0] is not None}
        places = {"length": self._length, "starts": self.starts}
        present |= {name: place for name, place in places.items() if place is not None}
        return (len(self), *present), tuple(present.values())

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[Any, ...], components: Any) -> Self:
        n_layer, *names = metadata
        absent = {"keys": [None] * n_layer, "values": [None] * n_layer}
        parts = {**absent, **dict(zip(names, components, strict=True))}
        starts = parts.pop("starts", None)
        cache = cls(**parts)
        cache.starts = starts
        return cache


def _written(buffer: tf.Tensor, new: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
    """Return [B, H, S, D] with `new` [B, H, T, D] at columns starts[b]; beyond S it is dropped."""
    count = _size(new, 2)
    slot = tf.range(_size(buffer, 2)) - starts[:, None]  # [B, S]; 0 at a row's first new token
    index = tf.clip_by_value(slot, 0, count - 1)[:, None]  # [B, 1, S]
    heads = tf.tile(index, [1, _size(new, 1), 1])
    is_new = ((slot >= 0) & (slot < count))[:, None, :, None]
    written = tf.where(is_new, tf.gather(new, heads, axis=2, batch_dims=2), buffer)
    written.set_shape(buffer.shape)
    return written


def _size(tensor: tf.Tensor, axis: int) -> int | tf.Tensor:
    known = tensor.shape[axis]
    return tf.shape(tensor)[axis] if known is None else known


optree.register_pytree_node(
    KVCache,
    lambda cache: cache.__tf_flatten__()[::-1],
    KVCache.__tf_unflatten__,
    namespace="keras",
)
