"""Counter-based random numbers: known answers, and the shape of the noise."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import random
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.seeds import streams


def _words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], np.uint32) for value in values)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        # The known-answer vectors of Random123 1.14 for threefry2x32, 20 rounds.
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(key, counter, expected):
    words = random.threefry2x32(NUMPY_OPS, _words(*key), _words(*counter))
    assert tuple(int(word[0]) for word in words) == expected


def test_gumbel_noise_has_the_distribution_of_gumbel_noise():
    keys = streams(seed=1, rows=4).keys(NUMPY_OPS)
    noise = random.gumbel_noise(NUMPY_OPS, keys, 3, np.arange(50_000, dtype=np.int32)[None, :])
    assert noise.shape == (4, 50_000)
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()
    # Kolmogorov-Smirnov against exp(-exp(-x)); 0.0037 is the 1% point for 200,000 draws.
    ordered = np.sort(noise.reshape(-1).astype(np.float64))
    ranks = (np.arange(ordered.size) + 0.5) / ordered.size
    assert np.abs(np.exp(-np.exp(-ordered)) - ranks).max() < 0.0037


def test_extreme_words_give_finite_noise():
    class ExtremeOps(type(NUMPY_OPS)):
        def hash_words(self, key, counter):
            return np.array([[0, 0xFFFFFFFF]], np.uint32)

    noise = random.gumbel_noise(ExtremeOps(), _words(1, 2), 0, np.zeros((1, 2), np.int32))
    assert np.isfinite(noise).all()
    assert noise[0, 0] > 20  # small uniforms keep their precision
    assert noise[0, 1] < -2


def test_every_row_step_token_and_seed_has_its_own_noise():
    ids = np.arange(8, dtype=np.int32)[None, :]
    draws = [
        random.gumbel_noise(NUMPY_OPS, streams(seed, 3).keys(NUMPY_OPS), step, ids)
        for seed in (0, 1, 2**32, 2**64 - 1)
        for step in (0, 1)
    ]
    assert len(np.unique(np.concatenate([draw.reshape(-1) for draw in draws]))) == 8 * 3 * 8


def test_a_stream_does_not_depend_on_the_rows_around_it():
    together = streams(seed=5, rows=4).keys(NUMPY_OPS)
    alone = streams(seed=[(5, 2)], rows=1).keys(NUMPY_OPS)
    assert [key[2] for key in together] == [key[0] for key in alone]


@pytest.mark.parametrize(
    ("seed", "rows", "message"),
    [
        (-1, 1, "from 0 to 2\\*\\*64 - 1"),
        (2**64, 1, "from 0 to 2\\*\\*64 - 1"),
        (1.5, 1, "an integer, or a list"),
        (True, 1, "an integer, or a list"),
        ([1, 2], 2, "an integer, or a list"),
        ([(1, 0)], 2, "1 streams, but 2 rows"),
        ([(1, -1)], 1, "row of a seed"),
    ],
)
def test_seeds_that_name_no_stream_are_refused(seed, rows, message):
    with pytest.raises(InvalidInputError, match=message):
        streams(seed, rows)
