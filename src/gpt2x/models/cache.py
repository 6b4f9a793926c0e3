"""What the key-value caches of the three backends share: their forms, bounds and names.

B batch, H heads, S tokens in all, D head_dim.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import Shape, fits, show
from gpt2x.models.prompt_cache import PromptCacheMixin


class Layer(NamedTuple):
    """The filled part of one layer, keys and values [B, H, S, D] each."""

    keys: Any
    values: Any


class CacheMixin(PromptCacheMixin):
    """Base of the three `KVCache`s, which bring the arrays and how they change.

    For each layer, `keys` and `values` hold a buffer [B, H, max_length, D] or None, `cross_keys`
    and `cross_values` one [B, H, encoder length, D] or None; `length` positions are filled.
    """

    #: Whether shapes stay the same for good: a cache grows where its room is not enough.
    is_compileable: ClassVar[bool] = False
    offloading: ClassVar[bool] = False

    #: Whether a value is an array of the backend; whether a layer may be one, [2, B, H, S, D].
    _is_array: ClassVar[Any]
    _takes_stacked: ClassVar[bool] = False

    keys: Any
    values: Any
    length: Any
    #: The column of each row at which the next tokens are written, int [B]; None if one for all.
    starts: Any
    cross_keys: list[Any]
    cross_values: list[Any]

    @classmethod
    def empty(cls, n_layer: int) -> Self:
        """Return a cache without buffers: the first call's keys and values become them."""
        return cls([None] * n_layer, [None] * n_layer)  # type: ignore[call-arg]

    @classmethod
    def from_tuple(cls, past_key_values: Sequence[Any]) -> Self:
        """Wrap a form of transformers' caches.

        Per layer (key, value) or (key, value, cross key, cross value), [B, H, S, D] each; in
        TensorFlow also one tensor [2, B, H, S, D], as its models had it. Appending to the result
        concatenates: the arrays that were given stay as they are.
        """
        check_past(past_key_values, cls._is_array, stacked=cls._takes_stacked)
        layers = [
            (layer[0], layer[1]) if cls._is_array(layer) else layer for layer in past_key_values
        ]
        keys, values, *cross = map(list, zip(*layers, strict=True))
        return cls(keys, values, None, *cross)  # type: ignore[call-arg]

    def to_tuple(self) -> tuple[tuple[Any, ...], ...]:
        """Return the filled part as transformers' tuple of (key, value), and cross pairs if any."""
        return tuple((*self[layer], *(self.cross(layer) or ())) for layer in range(len(self)))

    # --- reading ---

    def _buffers(self, layer: int) -> tuple[Any, Any]:
        return self.keys[layer], self.values[layer]

    def _size(self, axis: int) -> Any:
        """Return a size of the buffers, of which there are some."""
        return self.keys[0].shape[axis]

    @property
    def max_length(self) -> Any:
        """Positions for which there is room; 0 before the first call of a cache made `empty`."""
        return self._size(2) if self.is_initialized else 0

    @property
    def batch_size(self) -> Any:
        """Rows (B); 0 before the first call of a cache made `empty`."""
        return self._size(0) if self.is_initialized else 0

    @property
    def one_length(self) -> Any:
        """The length where it is the same in all rows; None between `at` and `at`, if it is not."""
        return self.length if self.starts is None else None

    @property
    def has_cross(self) -> bool:
        """Whether the cache has seen an encoder's states."""
        return self.cross_keys[0] is not None

    def cross(self, layer: int) -> tuple[Any, Any] | None:
        """Return the cross-attention keys and values of a layer, if it has seen the encoder."""
        key, value = self.cross_keys[layer], self.cross_values[layer]
        return None if key is None or value is None else (key, value)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The filled parts of the layers, each with `keys` and `values`, to be read."""
        return tuple(Layer(*pair) for pair in self)

    def __getitem__(self, layer: int) -> tuple[Any, Any]:
        key, value = self._buffers(layer)
        if key is None or value is None:
            raise InvalidInputError("The cache is empty: no model has been called with it yet.")
        return key[:, :, : self.length], value[:, :, : self.length]

    def __len__(self) -> int:
        return len(self.cross_keys)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(layers={len(self)}, batch_size={self.batch_size}, "
            f"length={self.length}, max_length={self.max_length})"
        )

    # --- bounds; a length that only a graph knows is not checked ---

    def _kept(self, length: Any) -> Any:
        """Return how many positions `crop(length)` keeps; a negative number drops from the end."""
        try:
            known = operator.index(length)
        except TypeError:
            return length
        kept = self.length + known if known < 0 else known
        if isinstance(self.length, int) and not 0 <= kept <= self.length:
            raise InvalidInputError(f"Cannot crop a cache of length {self.length} to {known}.")
        return kept

    def _check_room(self, max_length: int) -> None:
        """Raise unless `extend(max_length)` leaves room for what is filled."""
        if isinstance(self.length, int) and max_length < self.length:
            raise InvalidInputError(
                f"Cannot extend to {max_length} positions: {self.length} are filled."
            )

    # --- copying ---

    #: The attributes that hold buffers.
    _parts: ClassVar[tuple[str, ...]] = ("keys", "values", "cross_keys", "cross_values")

    def _map(self, function: Callable[[Any], Any]) -> Self:
        """Return a copy that holds what a function makes of each buffer."""
        mapped = object.__new__(type(self))
        vars(mapped).update(vars(self))
        for part in self._parts:
            setattr(mapped, part, each(function, getattr(self, part)))
        return mapped

    def fork(self, copies: Any = 1) -> Self:
        """Return `copies` of each row, next to one another, to be continued apart from this cache.

        Row b becomes the rows b x copies to (b + 1) x copies - 1, each with keys and values of its
        own: B x copies rows take copies times the memory. One copy costs nothing where arrays are
        never changed, as in TensorFlow and Flax.
        """
        with contextlib.suppress(TypeError):  # a number that only a graph knows
            copies = operator.index(copies)
        is_known = isinstance(copies, int)
        if copies < 1 if is_known else not hasattr(copies, "dtype"):
            raise InvalidInputError(
                f"copies is {copies!r}; it must be a whole number and at least 1."
            )
        forked = self._map(self._repeating(copies))
        text = self.text
        forked.know(text.repeated(copies) if text and is_known else None)
        return forked

    def _repeating(self, copies: Any) -> Callable[[Any], Any]:
        """Return the function that repeats each row of a buffer; see `fork`."""
        if isinstance(copies, int) and copies == 1:
            return lambda buffer: buffer
        return lambda buffer: self._repeated(buffer, copies)

    def _repeated(self, buffer: Any, copies: Any) -> Any:
        return buffer.repeat(copies, 0)

    # --- by the names of transformers' Cache ---

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Return `length`."""
        return self.length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return -1: there is no limit to the length."""
        return -1

    def get_mask_sizes(self, cache_position: Any, layer_idx: int = 0) -> tuple[Any, int]:
        """Return how many keys the tokens at `cache_position` [T] see, and which is the first."""
        return self.length + cache_position.shape[0], 0

    @property
    def is_initialized(self) -> bool:
        """Whether there are buffers: False before the first call of a cache made `empty`."""
        return self.keys[0] is not None

    @property
    def is_sliding(self) -> list[bool]:
        """For each layer, whether it forgets what is far back: False."""
        return [False] * len(self)

    @property
    def max_batch_size(self) -> Any:
        """`batch_size`."""
        return self.batch_size

    @property
    def max_cache_len(self) -> Any:
        """`max_length`."""
        return self.max_length


class LayerCache:
    """One layer of a cache that changes in place, as a block is given it.

    Keras takes pytrees apart and rebuilds them on every call of a layer; this is a leaf to it, so
    that what a block writes arrives in the cache.
    """

    def __init__(self, cache: Any, layer: int) -> None:
        self.cache = cache
        self.layer = layer

    def update(self, key: Any, value: Any) -> tuple[Any, Any]:
        """Append to the layer; see `KVCache.update`."""
        return self.cache.update(self.layer, key, value)

    def cross(self) -> tuple[Any, Any] | None:
        """Return what the layer knows of the encoder; see `KVCache.cross`."""
        return self.cache.cross(self.layer)

    def update_cross(self, key: Any, value: Any) -> None:
        """Keep what the layer knows of the encoder; see `KVCache.update_cross`."""
        self.cache.update_cross(self.layer, key, value)


def each(function: Callable[[Any], Any], buffers: Sequence[Any]) -> list[Any]:
    """Return what a function makes of every buffer; None where there is none."""
    return [None if buffer is None else function(buffer) for buffer in buffers]


def buffer_shape(
    config: GPT2Config, batch_size: Any, max_length: Any, spare: int = 0
) -> tuple[Any, ...]:
    """Return the shape [B, H, max_length + spare, D] of a layer's keys.

    Raises InvalidInputError for a number of positions that the model does not have.
    """
    if isinstance(max_length, int) and not 1 <= max_length <= config.n_positions:
        raise InvalidInputError(
            f"max_length is {max_length}; this model has 1 to {config.n_positions} positions."
        )
    return (batch_size, config.n_head, max_length + spare, config.n_embd // config.n_head)


def check_past(past: Any, is_array: Callable[[Any], bool], *, stacked: bool = False) -> None:
    """Raise unless a past that is not a `KVCache` holds the keys and values of each layer.

    Args:
        past: what was given.
        is_array: whether something is an array of the backend.
        stacked: whether a layer may also be one array [2, B, H, past, D].
    """
    also = " or one tensor [2, batch, heads, past, head_dim]" if stacked else ""
    problem = (
        "past_key_values must be a KVCache, or for each layer a pair (key, value) of tensors "
        f"[batch, heads, past, head_dim]{also}; got {type(past).__name__}"
    )
    if not isinstance(past, tuple | list):
        raise InvalidInputError(f"{problem}.")
    first: Shape | None = None
    for number, layer in enumerate(past):
        if isinstance(layer, tuple | list) and len(layer) in (2, 4) and all(map(is_array, layer)):
            shapes = [tuple(array.shape) for array in layer[:2]]
        elif stacked and is_array(layer) and len(layer.shape) == 5:
            shapes = [tuple(layer.shape)[1:]]
        else:
            raise InvalidInputError(f"{problem} with {_kind(layer)} in layer {number}.")
        for shape in shapes:
            first = first or shape
            if not fits(shape, first):
                raise InvalidInputError(
                    f"past_key_values has shape {show(shape)} in layer {number}, but "
                    f"{show(first)} in layer 0; all layers must hold the same tokens."
                )


def _kind(value: Any) -> str:
    """Name the type of a value, or the types that a tuple or list holds."""
    if not isinstance(value, tuple | list):
        return type(value).__name__
    return f"({', '.join(type(item).__name__ for item in value)})"
