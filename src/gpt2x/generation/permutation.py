"""The random permutations of PyTorch's CPU generator, in numpy: ``torch.randperm(n)``.

That generator is the Mersenne Twister mt19937, seeded with the low 32 bits of the seed. A
permutation is made by exchanging each item with one at or behind it (Fisher and Yates), chosen by
the next word modulo the number of these. Watermarks of transformers depend on it.
"""

from __future__ import annotations

import numpy as np


def targets(seed: int, size: int, count: int) -> np.ndarray:
    """Return with which place each of the first `count` places is exchanged: int64 [count].

    Args:
        seed: any integer; its low 32 bits count.
        size: number of items, below 2**32 / 20 (beyond, PyTorch takes another way).
        count: at most `size`.
    """
    generator = np.random.RandomState(seed % 2**32)
    words = np.frombuffer(generator.bytes(4 * count), np.dtype("<u4"))
    places = np.arange(count)
    return places + words % (size - places)


def permutation(seed: int, size: int, count: int) -> np.ndarray:
    """Return the first `count` items of the permutation of 0 to `size` - 1: int64 [count]."""
    chosen, places = targets(seed, size, count), np.arange(count)
    # What stands at a place when its turn comes: the item of the place that was exchanged with it
    # last, and so on back to a place that was exchanged with none.
    origin = places.copy()
    earlier = (chosen > places) & (chosen < count)
    origin[chosen[earlier]] = places[earlier]  # the last of equal targets is kept
    while not np.array_equal(further := origin[origin], origin):
        origin = further
    # A target that was one before holds what stood at that earlier place.
    order = np.argsort(chosen * count + places)
    before, after = order[:-1], order[1:]
    again = chosen[before] == chosen[after]
    items = chosen.copy()
    items[after[again]] = origin[before[again]]
    return items


def is_among_first(seed: int, size: int, count: int, item: int) -> bool:
    """Whether an item is among the first `count` of the permutation.

    It follows the one item, in less time than the whole permutation takes.
    """
    chosen, start, place = targets(seed, size, count), 0, item
    while True:
        if (chosen[start : place + 1] == place).any():
            return True
        if place >= count:
            return False
        start, place = place + 1, int(chosen[place])
