"""CRC-32C against its definition."""

import doctest

import numpy as np
import pytest

from gpt2x.formats.tensorflow import crc32c as module
from gpt2x.formats.tensorflow.crc32c import crc32c, masked

# Test vectors of RFC 3720, appendix B.4.
VECTORS = {
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    b"123456789": 0xE3069283,
    b"": 0,
}


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("data", VECTORS)
def test_known_checksums(data):
    assert crc32c(data) == VECTORS[data]


@pytest.mark.parametrize("size", [1, 4095, 8191, 8192, 8193, 20_000, 40_001])
def test_every_length(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)
    assert crc32c(np.frombuffer(data, np.uint8)) == bit_by_bit(data)
    assert crc32c(data[7:], crc32c(data[:7])) == bit_by_bit(data)


def test_mask():
    assert masked(0) == 0xA282EAD8
    assert (
        masked(crc32c(b"123456789")) == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    )
