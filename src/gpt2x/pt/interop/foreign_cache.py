"""transformers' `Cache` objects as pasts, such as those of PEFT's prefix tuning.

They are recognised by their methods, so transformers is not imported.
"""

from __future__ import annotations

from typing import Any

import torch

from gpt2x.pt.cache import KVCache


def is_foreign(past: Any) -> bool:
    """Return whether a past is a `Cache` of transformers."""
    return not isinstance(past, KVCache) and hasattr(past, "get_seq_length")


def as_cache(past: Any, n_layer: int) -> KVCache:
    """Return a past of any form as a `KVCache`; a past of another form is not changed.

    Raises:
        InvalidInputError: if it is neither a cache nor a tuple of keys and values.
    """
    if isinstance(past, KVCache):
        return past
    if not is_foreign(past):
        return KVCache.from_tuple(past)
    cache = KVCache.empty(n_layer)
    own, cross = _parts(past)
    cache.length = int(own.get_seq_length())
    if cache.length:
        pairs = [(layer.keys, layer.values) for layer in own.layers]
        cache.keys = [key[:, :, : cache.length] for key, _ in pairs]
        cache.values = [value[:, :, : cache.length] for _, value in pairs]
    if cross is not None and int(cross.get_seq_length()):
        cache.cross_keys = [layer.keys for layer in cross.layers]
        cache.cross_values = [layer.values for layer in cross.layers]
    return cache


def append(past: Any, cache: KVCache) -> None:
    """Append the new tokens of `cache` to the `Cache` of transformers that it was read from."""
    own, cross = _parts(past)
    start = int(own.get_seq_length())
    positions = {"cache_position": torch.arange(start, cache.length, device=cache[0][0].device)}
    knows_encoder = cross is None or bool(int(cross.get_seq_length()))
    for number, (key, value) in enumerate(cache):
        own.update(key[:, :, start:], value[:, :, start:], number, cache_kwargs=positions)
        pair = None if knows_encoder else cache.cross(number)
        if cross is not None and pair is not None:
            cross.update(*pair, number)
            past.is_updated[number] = True


def _parts(past: Any) -> tuple[Any, Any]:
    """Return its caches of the text and of an encoder (or None)."""
    return getattr(past, "self_attention_cache", past), getattr(past, "cross_attention_cache", None)
