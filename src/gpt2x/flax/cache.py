"""`KVCache`: the attention keys and values of the tokens seen so far.

B batch, H heads, T new tokens, S tokens in all, D head_dim, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.flax.cpu import folding
from gpt2x.models.cache import CacheMixin, buffer_shape, check_past, each

Pair = tuple[Array, Array]


class LayerCache(NamedTuple):
    """One layer of a cache, as a block is given it and returns it; see `KVCache`.

    `key` and `value` are [B, H, S, D], or folded, [B x H, S, D].
    """

    key: Array | None = None
    value: Array | None = None
    length: Array | None = None
    cross_key: Array | None = None
    cross_value: Array | None = None

    def append(self, key: Array, value: Array) -> tuple[LayerCache, Array, Array]:
        """Put key and value [B, H, T, D] behind what the layer holds.

        Returns the layer, and all of its keys and values, [B, H, S, D]. Where there is a length, S
        stays `max_length`, and what lies behind the new tokens has to be masked.
        """
        if self.key is None or self.value is None:
            return self._replace(key=key, value=value), key, value
        layer = self._replace(
            key=folding.written(self.key, key, self.length),
            value=folding.written(self.value, value, self.length),
        )
        heads = key.shape[1]
        return layer, folding.unfolded(layer.key, heads), folding.unfolded(layer.value, heads)

    @property
    def cross(self) -> Pair | None:
        """The cross-attention keys and values, if the layer has seen the encoder."""
        if self.cross_key is None or self.cross_value is None:
            return None
        return self.cross_key, self.cross_value


class KVCache(CacheMixin):
    """Keys and values of every layer, with room for more.

    Each layer has two buffers [B, H, max_length, D], of which the first `length` positions are
    filled. One made by `create` or `extend` is *static*: its `length` is an array, shapes stay the
    same from step to step, so that a jitted step compiles once. One made by a forward that was
    given none, or from a tuple, is *full*: new tokens are appended by concatenation.

    Arrays are values. A model that is given a cache returns a new one, and the old one can be
    continued in another way. A static cache that overflows inside `jax.jit`, where its length is
    not known, overwrites its last positions; outside, it raises.

    `cache[layer]` is the filled part `(keys, values)` of a layer, so that a cache reads like
    transformers' tuple of pairs. Cross-attention keys and values, which depend on the encoder
    alone, are kept beside them after the first call.

    A pytree: it can be an argument of a jitted function, also a donated one, and the carry of
    `lax.scan` and `lax.while_loop`. Its leaves may be folded, [B x H, max_length, D], for a CPU's
    sake (see `gpt2x.flax.cpu.folding`); `keys` and `values` show either as rank 4.

    >>> from gpt2x import GPT2Config
    >>> cache = KVCache.create(GPT2Config(), batch_size=2, max_length=64)
    >>> cache.length, cache.max_length, cache.keys[0].shape
    (0, 64, (2, 12, 64, 64))
    """

    _parts = ("_keys", "_values", "cross_keys", "cross_values")
    _is_array = staticmethod(lambda value: isinstance(value, Array | np.ndarray))
    _to_numpy = staticmethod(np.asarray)
    _from_numpy = staticmethod(jnp.asarray)

    def __init__(
        self,
        keys: Sequence[Array | None],
        values: Sequence[Array | None],
        length: Array | None = None,
        cross_keys: Sequence[Array | None] | None = None,
        cross_values: Sequence[Array | None] | None = None,
    ) -> None:
        self._keys: list[Any] = list(keys)
        self._values: list[Any] = list(values)
        self._folded_heads: int | None = None  # H, if the buffers are folded
        self._length = length
        self.starts: Array | None = None  # see `at`
        self.cross_keys = list(cross_keys or [None] * len(self._keys))
        self.cross_values = list(cross_values or [None] * len(self._keys))

    @classmethod
    def create(
        cls,
        config: GPT2Config,
        batch_size: int,
        max_length: int,
        dtype: Any = None,
        spare: int = 0,
        n_layer: int | None = None,
    ) -> Self:
        """Allocate a static cache for `batch_size` rows of `max_length` tokens.

        `dtype` defaults to the config's, and that to float32; `n_layer` to the config's. `spare`
        more may be written, of which only some are kept.
        """
        shape = buffer_shape(config, batch_size, max_length, spare)
        dtype = jnp.dtype(dtype or config.dtype or "float32")
        # A buffer for each: one that stands in two places cannot be donated.
        layers = config.n_layer if n_layer is None else n_layer
        keys = [jnp.zeros(shape, dtype) for _ in range(layers)]
        values = [jnp.zeros(shape, dtype) for _ in range(layers)]
        return cls(keys, values, jnp.zeros((), jnp.int32)).folded()

    @classmethod
    def from_dict(cls, past_key_values: Mapping[str, Any]) -> Self:
        """Read the cache of transformers' Flax models, as their `init_cache` makes it.

        ``{"h": {"0": {"attn": {"cached_key": [B, max_length, H, D], "cached_value": ...,
        "cache_index": scalar}}}}``, under ``"transformer"`` for models with a head. The result is
        static.
        """
        try:
            layers = past_key_values.get("transformer", past_key_values)["h"]
            attentions = [layers[str(layer)]["attn"] for layer in range(len(layers))]
            keys = [jnp.swapaxes(attention["cached_key"], 1, 2) for attention in attentions]
            values = [jnp.swapaxes(attention["cached_value"], 1, 2) for attention in attentions]
            length = jnp.asarray(attentions[0]["cache_index"], jnp.int32)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(
                "A dict of past_key_values must be one of transformers' Flax models: for each "
                'layer, ["h"]["0"]["attn"] holds cached_key and cached_value [batch, max_length, '
                "heads, head_dim] and the scalar cache_index. KVCache.to_dict makes one."
            ) from error
        check_past(list(zip(keys, values, strict=True)), cls._is_array)
        return cls(keys, values, length)

    def to_dict(self, *, prefix: bool) -> dict[str, Any]:
        """Return the form that `from_dict` reads; `prefix` puts it under ``"transformer"``."""
        layers = {
            str(layer): {
                "attn": {
                    "cache_index": jnp.asarray(self.offset, jnp.int32),
                    "cached_key": jnp.swapaxes(key, 1, 2),
                    "cached_value": jnp.swapaxes(value, 1, 2),
                }
            }
            for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True))
        }
        return {"transformer": {"h": layers}} if prefix else {"h": layers}

    # --- reading ---

    @property
    def keys(self) -> list[Array | None]:
        """For each layer, the keys [B, H, max_length, D]; None before the first call of an empty
        cache.
        """
        return [self._unfolded(buffer) for buffer in self._keys]

    @property
    def values(self) -> list[Array | None]:
        """For each layer, the values, as `keys`."""
        return [self._unfolded(buffer) for buffer in self._values]

    def _unfolded(self, buffer: Array | None) -> Any:
        return folding.unfolded(buffer, self._folded_heads)

    def _buffers(self, layer: int) -> tuple[Any, Any]:
        return self._unfolded(self._keys[layer]), self._unfolded(self._values[layer])

    @property
    def is_initialized(self) -> bool:
        """Whether there are buffers: False before the first call of a cache made `empty`."""
        return self._keys[0] is not None

    def _size(self, axis: int) -> int:
        return folding.unfolded_shape(self._keys[0].shape, self._folded_heads)[axis]

    @property
    def is_full(self) -> bool:
        """Whether every position is filled, so that new tokens are appended."""
        return self._length is None

    @property
    def length(self) -> int | Array:
        """Filled positions: an int, or an int32 scalar inside a transformation of JAX."""
        if self._length is None:
            return self.max_length
        return self._length if isinstance(self._length, jax.core.Tracer) else int(self._length)

    @property
    def offset(self) -> int | Array:
        """The length as a computation takes it: an int if the cache is full, else an array."""
        return self.max_length if self._length is None else self._length

    @property
    def key_spec(self) -> jax.ShapeDtypeStruct | None:
        """Shape [B, H, max_length, D] and dtype of a layer's keys; None where `keys` are None."""
        key = self._keys[0]
        if key is None:
            return None
        return jax.ShapeDtypeStruct(tuple(map(self._size, range(4))), key.dtype)

    def layer(self, layer: int) -> LayerCache:
        """Return a layer as a block takes it."""
        return LayerCache(
            self._keys[layer],
            self._values[layer],
            self._length if self.starts is None else self.starts,
            self.cross_keys[layer],
            self.cross_values[layer],
        )

    def __getitem__(self, layer: int) -> Pair:
        if not isinstance(self.length, int):
            raise InvalidInputError(
                "The filled part of a static cache has no shape inside jax.jit; read keys, values "
                "and length instead."
            )
        return super().__getitem__(layer)

    # --- changing as a whole; each returns a new cache ---

    def advanced(self, layers: Sequence[LayerCache], count: int) -> Self:
        """Return the cache of these layers, which have been given `count` more tokens."""
        advanced = self.fork()
        parts = map(list, zip(*layers, strict=True))
        advanced._keys, advanced._values, _, advanced.cross_keys, advanced.cross_values = parts
        if self._length is not None:
            advanced._length = self._length + count
        return advanced

    def at(self, start: int | Array) -> Self:
        """Let the next tokens be written at column `start`, or at one of each row, int [B].

        In the second case `length` is the largest of them, until the next `at`; a mask has to hide
        what lies behind the end of a row, and tokens beyond the room are dropped.
        """
        cache = self.fork()
        starts = jnp.asarray(start, jnp.int32)
        cache.starts = starts if starts.ndim else None
        cache._length = starts.max() if starts.ndim else starts
        return cache

    def reorder(self, parents: Array) -> Self:
        """Make row i continue row `parents[i]`; `parents` [any number of rows] may repeat rows."""
        reordered = self._map(lambda buffer: folding.take_rows(buffer, parents, self._folded_heads))
        reordered.know(None)
        return reordered

    def fork(self, copies: Any = 1) -> Self:
        """Return `copies` of each row, next to one another; see `CacheMixin.fork`."""
        forked = super().fork(copies)
        # Whether folded buffers are faster depends on the number of rows.
        return forked if isinstance(copies, int) and copies == 1 else forked.folded()

    def _repeated(self, buffer: Array, copies: Any) -> Array:
        rows = jnp.arange(self.batch_size * copies) // copies
        return folding.take_rows(buffer, rows, self._folded_heads)

    def crop(self, length: int) -> Self:
        """Forget all but the first `length` positions; a negative number drops from the end."""
        kept = self._kept(length)
        if self._length is not None:
            cropped = self.at(kept)
        else:
            cropped = self.fork()
            cropped._keys = [key[:, :, :kept] for key, _ in self]
            cropped._values = [value[:, :, :kept] for _, value in self]
        cropped.know(self._text_until(kept))
        return cropped

    def extend(self, max_length: int) -> Self:
        """Make room for `max_length` positions in all; what is filled stays. Returns a static one.

        Its buffers are new ones, so that it may be donated while this cache is kept.
        """
        self._check_room(max_length)
        room = [(0, 0), (0, 0), (0, max(max_length - self.max_length, 0)), (0, 0)]
        copied = self._map(jnp.copy)
        extended = type(self)(
            each(lambda key: jnp.pad(key, room), copied.keys),
            each(lambda value: jnp.pad(value, room), copied.values),
            jnp.array(self.offset, jnp.int32),
            copied.cross_keys,
            copied.cross_values,
        )
        extended.know(self.text)
        extended.model = self.model
        return extended.folded()

    def folded(self) -> Self:
        """Return the cache with folded buffers, where that is faster."""
        folded = self.fork()
        folded._keys, folded._folded_heads = folding.folded(self.keys)
        folded._values, _ = folding.folded(self.values)
        return folded


# As JAX names them in paths -> as they are kept.
_PARTS = {
    "keys": "_keys",
    "values": "_values",
    "length": "_length",
    "starts": "starts",
    "cross_keys": "cross_keys",
    "cross_values": "cross_values",
}


def _flatten(cache: KVCache) -> tuple[tuple[Any, ...], int | None]:
    return tuple(getattr(cache, part) for part in _PARTS.values()), cache._folded_heads


def _flatten_with_keys(cache: KVCache) -> tuple[list[tuple[Any, Any]], int | None]:
    parts, folded_heads = _flatten(cache)
    names = map(jax.tree_util.GetAttrKey, _PARTS)
    return list(zip(names, parts, strict=True)), folded_heads


def _unflatten(folded_heads: int | None, children: Any) -> KVCache:
    # Not by the constructor: JAX puts objects of its own in the children's place.
    cache = object.__new__(KVCache)
    cache._folded_heads = folded_heads
    for part, child in zip(_PARTS.values(), children, strict=True):
        setattr(cache, part, child)
    return cache


jax.tree_util.register_pytree_with_keys(KVCache, _flatten_with_keys, _unflatten, _flatten)
export.register_pytree_node_serialization(
    KVCache,
    serialized_name="gpt2x.flax.KVCache",
    serialize_auxdata=lambda folded_heads: str(folded_heads or "").encode(),
    deserialize_auxdata=lambda data: int(data) if data else None,
)
