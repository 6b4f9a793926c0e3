"""What a cache knows of the prompt that it holds, and how it is kept in a file.

B batch, S tokens in all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import cache_file
from gpt2x.weights.lazy import LazyTensor

#: Fields of the config on which keys and values depend, besides the weights.
_FIELDS = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "add_cross_attention",
)


def model_fields(config: GPT2Config) -> dict[str, Any]:
    """Return the fields of a config by which a cache recognises its model."""
    fields = {name: getattr(config, name) for name in _FIELDS}
    return {**fields, "n_inner": config.n_inner or 4 * config.n_embd}


class CachedText(NamedTuple):
    """The tokens whose keys and values a cache holds.

    Attributes:
        input_ids: int32 [B, S].
        is_text: bool [B, S], False at padding.
    """

    input_ids: np.ndarray
    is_text: np.ndarray

    def cropped(self, length: int) -> CachedText:
        """Return the first `length` columns."""
        return CachedText(*(array[:, :length] for array in self))

    def repeated(self, copies: int) -> CachedText:
        """Return `copies` of each row, next to one another."""
        return CachedText(*(np.repeat(array, copies, axis=0) for array in self))


class PromptCacheMixin:
    """The part of a `KVCache` that is about its prompt, and files.

    Attributes:
        model: fields of the config of its model (`model_fields`), or {} if it is not known.
    """

    model: Mapping[str, Any] = {}
    _text: CachedText | None = None

    length: Any
    to_tuple: Callable[[], tuple[tuple[Any, ...], ...]]
    from_tuple: ClassVar[Callable[..., Any]]

    #: An array of the backend on the host, and back.
    _to_numpy: ClassVar[Any]
    _from_numpy: ClassVar[Any]

    @property
    def text(self) -> CachedText | None:
        """The tokens that the cache holds, if `prefill` or `load` made it; None if not known.

        They do not go into compiled functions. A cache that a model appended to does not know them.
        """
        text = self._text
        if text is None or not isinstance(self.length, int):
            return None
        return text if text.input_ids.shape[1] == self.length else None

    def know(self, text: CachedText | None) -> None:
        """Keep the tokens of the filled columns, or forget them."""
        self._text = text

    def _text_until(self, length: Any) -> CachedText | None:
        """Return the first `length` tokens, if they are known."""
        text = self.text
        return text.cropped(length) if text and isinstance(length, int) else None

    def check_model(self, config: GPT2Config) -> None:
        """Raise InvalidInputError if the cache was computed by a model of another config.

        Weights are not compared: that they are the same is up to the caller.
        """
        for name, value in model_fields(config).items():
            if self.model.get(name, value) != value:
                raise InvalidInputError(
                    f"The cache is of another model: its {name} is {self.model[name]!r}, and this "
                    f"model's {value!r}. Compute it again with model.prefill()."
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what is filled to a safetensors file, which every backend's `load` reads.

        The file holds keys and values in their dtype, [B, H, S, D] for each layer, and the tokens
        and the model's config if `prefill` made the cache. It appears at once and whole.

        Raises:
            InvalidInputError: if the cache is empty, or its length is not known yet.
        """
        if not isinstance(self.length, int):
            raise InvalidInputError("A cache can be saved only outside of compiled functions.")
        pairs = self.to_tuple()
        dtype = self._to_numpy(pairs[0][0][:0]).dtype
        layers = [
            tuple(
                LazyTensor(tuple(array.shape), dtype, partial(self._to_numpy, array))
                for array in layer
            )
            for layer in pairs
        ]
        text: dict[str, np.ndarray] = {}
        if self.text is not None:
            text["input_ids"] = self.text.input_ids
            if not self.text.is_text.all():
                text["attention_mask"] = self.text.is_text.astype(np.int32)
        cache_file.write(path, layers, text, self.model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a cache that `save` wrote, in this backend or another.

        Nothing in the file is run. A model refuses the cache if its config differs from that of
        the model that computed it; weights are not compared.

        Raises:
            CheckpointError: if the file cannot be read, is damaged, or does not hold a cache.
        """
        saved = cache_file.read(path)
        cache = cls.from_tuple([tuple(map(cls._from_numpy, layer)) for layer in saved.layers])
        cache.model = saved.model
        if saved.input_ids is not None:
            mask = saved.attention_mask
            is_text = np.ones_like(saved.input_ids) if mask is None else mask
            cache.know(CachedText(saved.input_ids, is_text != 0))
        return cache
