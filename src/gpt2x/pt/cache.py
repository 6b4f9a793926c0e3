"""`KVCache`: the attention keys and values of the tokens seen so far.

B batch, H heads, T new tokens, S tokens in all, D head_dim, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models.cache import CacheMixin, buffer_shape, each
from gpt2x.pt.arrays import to_numpy, to_torch

Pair = tuple[Tensor, Tensor]


class KVCache(CacheMixin):
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

    _is_array = staticmethod(torch.is_tensor)
    _to_numpy = staticmethod(to_numpy)
    _from_numpy = staticmethod(to_torch)

    def __init__(
        self,
        keys: list[Any],
        values: list[Any],
        length: int | None = 0,
        cross_keys: list[Any] | None = None,
        cross_values: list[Any] | None = None,
    ) -> None:
        self.keys = keys
        self.values = values
        # None: all positions of the buffers are filled.
        self.length = keys[0].size(2) if length is None else length
        self.starts: Tensor | None = None  # see `at`
        self._places: Pair | None = None  # of what is written at `starts`, for all layers
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
        spare: int = 0,
    ) -> Self:
        """Allocate a cache for `batch_size` rows of `max_length` tokens.

        `dtype` defaults to the config's, and that to float32; `n_layer` to the config's. `spare`
        more may be written, of which only some are kept.
        """
        layers = config.n_layer if n_layer is None else n_layer
        shape = buffer_shape(config, batch_size, max_length, spare)
        dtype = dtype or getattr(torch, config.dtype or "float32")
        # Zeros, not empty: unwritten positions must not be NaN for readers of the buffers.
        keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        return cls(list(keys), list(values))

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
        if self.starts is not None:
            if self._places is None:
                self._places = _places(self.starts, key.size(2))
            keys = self.keys[layer] = _written(keys, key, self._places, end)
            values = self.values[layer] = _written(values, value, self._places, end)
            return keys[:, :, :end].to(key.dtype), values[:, :, :end].to(value.dtype)
        if end > keys.size(2) or (torch.is_grad_enabled() and key.requires_grad):
            keys = torch.cat([keys[:, :, :start].to(key.dtype), key], dim=2)
            values = torch.cat([values[:, :, :start].to(value.dtype), value], dim=2)
            self.keys[layer], self.values[layer] = keys, values
            return keys, values
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        # As in growing: under autocast the buffers may be wider than the computation.
        return keys[:, :, :end].to(key.dtype), values[:, :, :end].to(value.dtype)

    def update_cross(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep the cross-attention keys and values [B, H, encoder length, D] of a layer."""
        self.cross_keys[layer], self.cross_values[layer] = key, value

    def advance(self, count: int) -> None:
        """Count `count` more positions as filled."""
        self.length += count

    # --- changing as a whole; each works in place and returns the cache ---

    def at(self, start: int | Tensor) -> Self:
        """Let the next tokens be written at column `start`, or at one of each row, int [B].

        In the second case `length` is the largest of them, until the next `at`; a mask has to hide
        what lies behind the end of a row.
        """
        self._places = None
        if isinstance(start, Tensor) and start.dim() > 0:
            self.starts, self.length = start, int(start.max())
        else:
            self.starts, self.length = None, int(start)
        return self

    def reorder(self, parents: Tensor) -> Self:
        """Make row i continue row `parents[i]`; `parents` [any number of rows] may repeat rows."""

        def gather(buffer: Tensor) -> Tensor:
            filled = buffer[:, :, : self.length].index_select(0, parents)
            if buffer.requires_grad:  # a tensor that is differentiated must not change
                return filled
            if parents.numel() == buffer.size(0):
                buffer[:, :, : self.length] = filled
                return buffer
            rows = buffer.new_zeros((parents.numel(), *buffer.shape[1:]))
            rows[:, :, : self.length] = filled
            return rows

        def gather_cross(buffer: Tensor) -> Tensor:
            return buffer.index_select(0, parents)

        self.keys, self.values = each(gather, self.keys), each(gather, self.values)
        self.cross_keys = each(gather_cross, self.cross_keys)
        self.cross_values = each(gather_cross, self.cross_values)
        self.know(None)
        return self

    def crop(self, length: int) -> Self:
        """Forget all but the first `length` positions; a negative number drops from the end."""
        kept = self._kept(length)
        self.know(self._text_until(kept))
        self.length = kept
        return self

    def extend(self, max_length: int) -> Self:
        """Make room for `max_length` positions in all; what is filled stays."""
        self._check_room(max_length)

        def enlarge(buffer: Tensor) -> Tensor:
            if buffer.size(2) >= max_length:
                return buffer
            rows, heads, _, width = buffer.shape
            larger = buffer.new_zeros((rows, heads, max_length, width))
            larger[:, :, : self.length] = buffer[:, :, : self.length]
            return larger

        self.keys, self.values = each(enlarge, self.keys), each(enlarge, self.values)
        return self

    def _repeating(self, copies: int) -> Callable[[Tensor], Tensor]:
        # Of one copy too: appending works in place.
        return lambda buffer: buffer.repeat_interleave(copies, dim=0)

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


def _places(starts: Tensor, count: int) -> Pair:
    """Return the rows [B, 1] and the columns [B, T] of T tokens at columns starts[b]."""
    rows = torch.arange(starts.size(0), device=starts.device)[:, None]
    return rows, starts[:, None] + torch.arange(count, device=starts.device)


def _written(buffer: Tensor, new: Tensor, places: Pair, end: int) -> Tensor:
    """Return [B, H, S, D] with `new` [B, H, T, D] at `places`; larger if S < `end`."""
    if end > buffer.size(2):
        buffer = torch.nn.functional.pad(buffer, (0, 0, 0, end - buffer.size(2)))
    rows, columns = places
    buffer[rows, :, columns] = new.transpose(1, 2).to(buffer.dtype)  # [B, T, H, D]
    return buffer


def _flatten(cache: KVCache) -> tuple[list[Any], tuple[int, int]]:
    groups = (cache.keys, cache.values, cache.cross_keys, cache.cross_values)
    # Missing buffers are not leaves, so functions mapped over the cache get only tensors.
    return [group if group[0] is not None else [] for group in groups], (len(cache), cache.length)


def _unflatten(children: Any, context: tuple[int, int]) -> KVCache:
    layers, length = context
    keys, values, *cross = (list(group) or [None] * layers for group in children)
    return KVCache(keys, values, length, *cross)


pytree.register_pytree_node(KVCache, _flatten, _unflatten, serialized_type_name="gpt2x.pt.KVCache")
