"""`KVCache`: the attention keys and values of the tokens seen so far.

B batch, H heads, T new tokens, S tokens in all, D head_dim, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks
from gpt2x.models.cache import CacheNames

Pair = tuple[Tensor, Tensor]


class Layer(NamedTuple):
    """Keys and values of one layer, [B, H, S, D] each."""

    keys: Tensor
    values: Tensor


class KVCache(CacheNames):
    """Keys and values of every layer, with room for more.

    Each layer has two buffers [B, H, max_length, D], of which the first `length` positions are
    filled. A model that is given a cache appends to it *in place* and returns the same object:
    `fork()` first to continue one text in two ways. New tokens are written into the free room;
    where there is none, or where gradients must flow through, the buffers grow by concatenation.

    `cache[layer]` is the filled part `(keys, values)` of a layer, so that a cache reads like
    transformers' tuple of pairs. Cross-attention keys and values, which depend on the encoder
    alone, are kept beside them after the first call.

    Registered with `torch.utils._pytree`; usable under `torch.compile(fullgraph=True)`.

    >>> from gpt2x import GPT2Config
    >>> cache = KVCache.create(GPT2Config(), batch_size=2, max_length=64)
    >>> cache.length, cache.max_length, cache.keys[0].shape
    (0, 64, torch.Size([2, 12, 64, 64]))
    """

    def __init__(
        self,
        keys: list[Tensor | None],
        values: list[Tensor | None],
        length: int = 0,
        cross_keys: list[Tensor | None] | None = None,
        cross_values: list[Tensor | None] | None = None,
    ) -> None:
        self.keys = keys
        self.values = values
        self.length = length
        self.cross_keys = cross_keys or [None] * len(keys)
        self.cross_values = cross_values or [None] * len(keys)

    @classmethod
    def create(
        cls,
        config: GPT2Config,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        n_layer: int | None = None,
    ) -> Self:
        """Allocate a cache for `batch_size` rows of `max_length` tokens.

        `dtype` defaults to the config's, and that to float32; `n_layer` to the config's.
        """
        layers = config.n_layer if n_layer is None else n_layer
        if not 1 <= max_length <= config.n_positions:
            raise InvalidInputError(
                f"max_length is {max_length}; this model has 1 to {config.n_positions} positions."
            )
        dtype = dtype or getattr(torch, config.dtype or "float32")
        shape = (batch_size, config.n_head, max_length, config.n_embd // config.n_head)
        # Zeros, not empty: what was never written must not be NaN for those who read the buffers.
        keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        return cls(list(keys), list(values))

    @classmethod
    def empty(cls, n_layer: int) -> Self:
        """Return a cache without buffers: the first call's keys and values become them."""
        return cls([None] * n_layer, [None] * n_layer)

    @classmethod
    def from_tuple(cls, past_key_values: Sequence[Sequence[Tensor]]) -> Self:
        """Wrap transformers' form, per layer (key, value) or (key, value, cross key, cross value).

        Appending to the result concatenates: the tensors of the tuple stay as they are.
        """
        checks.check_past(past_key_values, lambda value: isinstance(value, Tensor))
        columns = list(zip(*past_key_values, strict=True))
        keys, values, *cross = ([*column] for column in columns)
        return cls(keys, values, keys[0].size(2), *cross)

    def to_tuple(self) -> tuple[tuple[Tensor, ...], ...]:
        """Return the filled part in transformers' form: views, not copies."""
        return tuple((*self[layer], *(self.cross(layer) or ())) for layer in range(len(self.keys)))

    # --- reading ---

    @property
    def max_length(self) -> int:
        """Positions for which there is room; 0 before the first call of a cache made `empty`."""
        return 0 if self.keys[0] is None else self.keys[0].size(2)

    @property
    def batch_size(self) -> int:
        """Rows (B); 0 before the first call of a cache made `empty`."""
        return 0 if self.keys[0] is None else self.keys[0].size(0)

    @property
    def has_cross(self) -> bool:
        """Whether the cache has seen an encoder's states."""
        return self.cross_keys[0] is not None

    def cross(self, layer: int) -> Pair | None:
        """Return the cross-attention keys and values of a layer, if it has seen the encoder."""
        key, value = self.cross_keys[layer], self.cross_values[layer]
        return None if key is None or value is None else (key, value)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The filled parts of the layers, each with `keys` and `values`, to be read."""
        return tuple(Layer(*self[layer]) for layer in range(len(self)))

    def __getitem__(self, layer: int) -> Pair:
        key, value = self.keys[layer], self.values[layer]
        if key is None or value is None:
            raise InvalidInputError("The cache is empty: no model has been called with it yet.")
        return key[:, :, : self.length], value[:, :, : self.length]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Pair]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(layers={len(self)}, batch_size={self.batch_size}, "
            f"length={self.length}, max_length={self.max_length})"
        )

    # --- writing ---

    def update(self, layer: int, key: Tensor, value: Tensor) -> Pair:
        """Append key and value [B, H, T, D] to a layer; return all of it, [B, H, S, D] each.

        The length stays until `advance`, which a model calls after its last layer.
        """
        start, end = self.length, self.length + key.size(2)
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            self.keys[layer], self.values[layer] = key, value
            return key, value
        if end > keys.size(2) or (torch.is_grad_enabled() and key.requires_grad):
            keys = torch.cat([keys[:, :, :start].to(key.dtype), key], dim=2)
            values = torch.cat([values[:, :, :start].to(value.dtype), value], dim=2)
            self.keys[layer], self.values[layer] = keys, values
            return keys, values
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        # As where it grows: under autocast the buffers may be wider than what is computed with.
        return keys[:, :, :end].to(key.dtype), values[:, :, :end].to(value.dtype)

    def update_cross(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep the cross-attention keys and values [B, H, encoder length, D] of a layer."""
        self.cross_keys[layer], self.cross_values[layer] = key, value

    def advance(self, count: int) -> None:
        """Count `count` more positions as filled."""
        self.length += count

    # --- changing as a whole; each works in place and returns the cache ---

    def reorder(self, parents: Tensor) -> Self:
        """Make row i continue row `parents[i]`; `parents` [any number of rows] may repeat rows."""

        def gather(buffer: Tensor | None) -> Tensor | None:
            if buffer is None:
                return None
            filled = buffer[:, :, : self.length].index_select(0, parents)
            if buffer.requires_grad:  # what a derivative is taken of must not change
                return filled
            if parents.numel() == buffer.size(0):
                buffer[:, :, : self.length] = filled
                return buffer
            rows = buffer.new_zeros((parents.numel(), *buffer.shape[1:]))
            rows[:, :, : self.length] = filled
            return rows

        def gather_cross(buffer: Tensor | None) -> Tensor | None:
            return None if buffer is None else buffer.index_select(0, parents)

        self.keys = [gather(buffer) for buffer in self.keys]
        self.values = [gather(buffer) for buffer in self.values]
        self.cross_keys = [gather_cross(buffer) for buffer in self.cross_keys]
        self.cross_values = [gather_cross(buffer) for buffer in self.cross_values]
        return self

    def crop(self, length: int) -> Self:
        """Forget all but the first `length` positions; a negative number drops from the end."""
        kept = length if length >= 0 else self.length + length
        if not 0 <= kept <= self.length:
            raise InvalidInputError(f"Cannot crop a cache of length {self.length} to {length}.")
        self.length = kept
        return self

    def extend(self, max_length: int) -> Self:
        """Make room for `max_length` positions in all; what is filled stays."""
        if max_length < self.length:
            raise InvalidInputError(
                f"Cannot extend to {max_length} positions: {self.length} are filled."
            )

        def enlarge(buffer: Tensor | None) -> Tensor | None:
            if buffer is None or buffer.size(2) >= max_length:
                return buffer
            rows, heads, _, width = buffer.shape
            larger = buffer.new_zeros((rows, heads, max_length, width))
            larger[:, :, : self.length] = buffer[:, :, : self.length]
            return larger

        self.keys = [enlarge(buffer) for buffer in self.keys]
        self.values = [enlarge(buffer) for buffer in self.values]
        return self

    def fork(self) -> Self:
        """Return a copy that shares no buffer with this cache."""
        return pytree.tree_map(torch.clone, self)

    # --- by the names of transformers' DynamicCache ---

    @classmethod
    def from_legacy_cache(cls, past_key_values: Sequence[Sequence[Tensor]] | None = None) -> Self:
        """Wrap a tuple of pairs; see `from_tuple`."""
        if past_key_values is None:
            raise InvalidInputError("An empty cache is KVCache.empty(n_layer).")
        return cls.from_tuple(past_key_values)

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:
        """Return the filled part as a tuple of pairs; see `to_tuple`."""
        return self.to_tuple()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i continue row `beam_idx[i]`, in place."""
        self.reorder(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these numbers, in place."""
        self.reorder(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, in place: rows 0, 0, 1, 1 ... for 2."""
        rows = torch.arange(self.batch_size, device=self[0][0].device)
        self.reorder(rows.repeat_interleave(repeats))


def _flatten(cache: KVCache) -> tuple[list[Any], tuple[int, int]]:
    groups = (cache.keys, cache.values, cache.cross_keys, cache.cross_values)
    # What is not there yet is not a leaf: functions mapped over the cache see tensors only.
    return [group if group[0] is not None else [] for group in groups], (len(cache), cache.length)


def _unflatten(children: Any, context: tuple[int, int]) -> KVCache:
    layers, length = context
    keys, values, *cross = (list(group) or [None] * layers for group in children)
    return KVCache(keys, values, length, *cross)


pytree.register_pytree_node(KVCache, _flatten, _unflatten, serialized_type_name="gpt2x.pt.KVCache")
