"""What the caches share, over buffers of numpy; how they change is tested in each backend."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models.cache import CacheMixin, buffer_shape


class Cache(CacheMixin):
    _is_array = staticmethod(lambda value: isinstance(value, np.ndarray))
    _takes_stacked = True

    def __init__(self, keys, values, length=None, cross_keys=None, cross_values=None):
        self.keys, self.values = keys, values
        self.length = keys[0].shape[2] if length is None and keys[0] is not None else length or 0
        self.cross_keys = cross_keys or [None] * len(keys)
        self.cross_values = cross_values or [None] * len(keys)


def layer(length=5, number=0):
    return tuple(np.full((2, 3, length, 4), value + number) for value in (1.0, -1.0))


def test_tuples_and_stacked_layers_are_wrapped_and_returned():
    pairs = (layer(), layer(number=1))
    for past in (pairs, [list(pair) for pair in pairs], [np.stack(pair) for pair in pairs]):
        cache = Cache.from_tuple(past)
        assert (len(cache), cache.length, cache.batch_size, cache.max_length) == (2, 5, 2, 5)
        np.testing.assert_array_equal(cache.to_tuple(), pairs)
        np.testing.assert_array_equal(cache.layers[1].values, pairs[1][1])
    with_encoder = tuple((*pair, *layer(7)) for pair in pairs)
    cache = Cache.from_tuple(with_encoder)
    assert cache.has_cross
    assert cache.to_tuple()[1][3].shape == (2, 3, 7, 4)
    with pytest.raises(InvalidInputError, match="in layer 1, but"):
        Cache.from_tuple((layer(5), layer(6)))


def test_an_empty_cache_has_sizes_but_no_layers_to_read():
    cache = Cache.empty(3)
    assert (len(cache), cache.batch_size, cache.max_length) == (3, 0, 0)
    assert not cache.is_initialized
    assert not cache.has_cross
    with pytest.raises(InvalidInputError, match="no model has been called with it yet"):
        _ = cache[0]


def test_only_the_filled_part_is_read():
    cache = Cache([layer(8)[0]], [layer(8)[1]], length=3)
    assert cache[0][0].shape == (2, 3, 3, 4)
    assert repr(cache) == "Cache(layers=1, batch_size=2, length=3, max_length=8)"


@pytest.mark.parametrize("length", [3, np.int64(3), np.array(3), -2, np.int32(-2)])
def test_a_crop_counts_from_either_end(length):
    assert Cache.from_tuple([layer(5)])._kept(length) == 3


def test_bounds():
    cache = Cache.from_tuple([layer(5)])
    for length in (6, -6):
        with pytest.raises(InvalidInputError, match=f"Cannot crop a cache of length 5 to {length}"):
            cache._kept(length)
    assert cache._kept("a value of a graph") == "a value of a graph"
    cache._check_room(5)
    with pytest.raises(InvalidInputError, match="Cannot extend to 4 positions: 5 are filled"):
        cache._check_room(4)
    config = GPT2Config(n_positions=8, n_embd=12, n_head=3)
    assert buffer_shape(config, 2, 8) == (2, 3, 8, 4)
    for positions in (0, 9):
        with pytest.raises(InvalidInputError, match=f"{positions}; this model has 1 to 8"):
            buffer_shape(config, 2, positions)


def test_a_fork_changes_alone():
    cache = Cache.from_tuple([layer()])
    fork = cache.fork()
    fork.keys[0] = None
    assert cache.is_initialized
    assert not fork.is_initialized
    doubled = cache._map(lambda buffer: buffer * 2)
    np.testing.assert_array_equal(doubled[0][0], 2 * cache[0][0])
    assert doubled.cross(0) is None
