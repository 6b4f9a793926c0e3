"""Counter-based random numbers: the same bits in every framework, on every device.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
maps a key and a counter of two 32-bit words each to two words that pass as random. There is no
state between draws, so the noise of a token does not depend on the batch around it, on the order of
evaluation, or on the number of draws before:

    key     = threefry((seed low, seed high), (row, 0))         one stream for each (seed, row)
    word    = threefry(key, (generated step, token id))         one word for each candidate
    uniform = word / 2**32
    noise   = -log(-log(1 - uniform))                           a Gumbel variate

Sampling takes the argmax of scores + noise (Gumbel-max), which draws from softmax(scores) exactly,
without a cumulative sum (whose rounding differs between frameworks) and without normalising.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2x.generation.ops import Ops

Array = Any

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF
_LARGEST_UNIFORM = 1.0 - 2.0**-24  # the largest float32 below 1: its noise is still finite


def threefry2x32(
    ops: Ops, key: tuple[Array, Array], counter: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Return two words for each counter; all arguments are word arrays that broadcast together."""
    k0, k1 = key
    k2 = k0 ^ k1 ^ ops.words(ops.full((1,), _PARITY, "int"))
    schedule = (k0, k1, k2)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for block in range(5):
        for count in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = (ops.shift_left(x1, count) | ops.shift_right(x1, 32 - count)) ^ x0
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + schedule[(block + 2) % 3] + ops.words(ops.full((1,), block + 1, "int"))
    return x0, x1


def row_keys(ops: Ops, seeds: tuple[Array, Array], streams: Array) -> tuple[Array, Array]:
    """Return the key of each row: (low words, high words), each [R].

    `seeds` are the low and the high 32 bits of each row's seed (word arrays [R] or [1]); `streams`
    (int [R]) number the rows of one seed.
    """
    stream = ops.words(streams)
    return threefry2x32(ops, seeds, (stream, stream ^ stream))


def gumbel_noise(ops: Ops, keys: tuple[Array, Array], step: Any, token_ids: Array) -> Array:
    """Return standard Gumbel noise for candidate tokens.

    keys: words [R], twice; step: int scalar or [R, 1]; token_ids: int [R, C] or [1, C] -> float
    [R, C].
    """
    is_scalar = len(getattr(step, "shape", ())) == 0
    steps = ops.full((1, 1), step, "int") if is_scalar else step
    counter = (ops.words(steps), ops.words(token_ids))
    words = ops.hash_words((keys[0][:, None], keys[1][:, None]), counter)
    upper, lower = ops.word_halves(words)
    # The product is exact and the sum is rounded once, so every framework gets the same float.
    uniform = (upper * 65536.0 + lower + 0.5) * 2.0**-32
    uniform = ops.minimum(uniform, _LARGEST_UNIFORM)
    return -ops.log(-ops.log1p(-uniform))


def split_seed(seed: int) -> tuple[int, int]:
    """Return the low and the high 32 bits of a seed (0 <= seed < 2**64)."""
    return seed & _MASK, (seed >> 32) & _MASK
