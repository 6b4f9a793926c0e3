"""What the key-value caches of the three backends share."""

from __future__ import annotations

from typing import Any, ClassVar


class CacheNames:
    """What transformers' `Cache` tells of itself, from `length`, `max_length` and `batch_size`."""

    #: Whether shapes stay the same for good: a cache grows where its room is not enough.
    is_compileable: ClassVar[bool] = False
    offloading: ClassVar[bool] = False

    def get_seq_length(self: Any, layer_idx: int = 0) -> Any:
        """Return `length`."""
        return self.length

    def get_max_cache_shape(self: Any, layer_idx: int = 0) -> int:
        """Return -1: there is no limit to the length."""
        return -1

    def get_mask_sizes(self: Any, cache_position: Any, layer_idx: int = 0) -> tuple[Any, int]:
        """Return how many keys the tokens at `cache_position` [T] see, and which is the first."""
        return self.length + cache_position.shape[0], 0

    @property
    def is_initialized(self: Any) -> bool:
        """Whether there are buffers: False before the first call of a cache made `empty`."""
        return self.keys[0] is not None

    @property
    def is_sliding(self: Any) -> list[bool]:
        """For each layer, whether it forgets what is far back: False."""
        return [False] * len(self)

    @property
    def max_batch_size(self: Any) -> Any:
        """`batch_size`."""
        return self.batch_size

    @property
    def max_cache_len(self: Any) -> Any:
        """`max_length`."""
        return self.max_length
