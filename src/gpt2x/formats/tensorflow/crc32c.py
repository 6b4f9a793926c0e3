"""CRC-32C, the checksum of TensorFlow's checkpoints, fast enough for weights without a C library.

A CRC is linear over bits: the bytes are split into many lanes, whose checksums numpy advances
together. They are then joined pairwise by multiplying with the matrix that advances a checksum over
zero bytes.
"""

from __future__ import annotations

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, bits reversed
_MAX_LANES = 4096
_MASK_DELTA = 0xA282EAD8


def _make_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, _POLYNOMIAL, np.uint32(0))
    return table


_TABLE = _make_table()
_LOW_BYTES = np.arange(2**16, dtype=np.uint32)
# The effect of two zero bytes on a state of 16 bits: lanes advance two bytes at a time.
_PAIR_TABLE = _TABLE[_LOW_BYTES & 0xFF] ^ (_LOW_BYTES >> 8)
_PAIR_TABLE = _TABLE[_PAIR_TABLE & 0xFF] ^ (_PAIR_TABLE >> 8)


def _advance(crc: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Advance the checksum of each lane over its bytes, `columns` [length, lanes]."""
    for column in columns:
        crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return crc


def _advance_pairs(crc: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Advance as `_advance` does, over columns of two bytes in little-endian order."""
    for column in columns:
        crc = _PAIR_TABLE[(crc ^ column) & 0xFFFF] ^ (crc >> 16)
    return crc


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply vectors of 32 bits by a matrix over GF(2), given as its 32 columns."""
    product = np.zeros_like(vectors)
    for bit in range(32):
        product ^= np.where((vectors >> bit) & 1, matrix[bit], np.uint32(0))
    return product


def _zeros_matrix(count: int) -> np.ndarray:
    """Return the matrix that advances a checksum over `count` zero bytes."""
    unit = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _advance(unit, np.zeros((1, 32), np.uint32))
    result = unit
    while count:
        if count & 1:
            result = _times(power, result)
        power = _times(power, power)
        count >>= 1
    return result


def crc32c(data: bytes | np.ndarray, crc: int = 0) -> int:
    """Return the CRC-32C of the bytes, continued from the checksum of the bytes before.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.view(np.uint8)
    state = np.uint32(crc ^ 0xFFFFFFFF)
    # About as many lanes as each has bytes, so that short data is quick too; a power of two.
    count = min(_MAX_LANES, 1 << raw.size.bit_length() // 2)
    length = raw.size // count // 2 * 2
    if length:
        lanes = raw[: length * count].view("<u2").reshape(count, length // 2)
        crcs = np.zeros(count, np.uint32)
        crcs[0] = state
        crcs = _advance_pairs(crcs, np.ascontiguousarray(lanes.T))
        matrix = _zeros_matrix(length)
        while crcs.size > 1:  # each pass joins neighbours, so a lane becomes twice as long
            crcs = _times(matrix, crcs[0::2]) ^ crcs[1::2]
            matrix = _times(matrix, matrix)
        state = crcs[0]
    tail = raw[length * count :].reshape(-1, 1)
    return int(_advance(np.array([state], np.uint32), tail)[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Mask a checksum as TensorFlow stores it, beside data that may itself hold checksums."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
