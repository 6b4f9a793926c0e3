"""MessagePack files that lie."""

from __future__ import annotations

import struct

import pytest

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.flax import msgpack as flax_msgpack
from gpt2x.storage.budget import Budget


def text(value: str) -> bytes:
    return bytes([0xA0 + len(value)]) + value.encode()


def array(shape: bytes, dtype: str, raw: bytes, code: int = 1) -> bytes:
    inside = b"\x93" + shape + text(dtype) + bytes([0xC4, len(raw)]) + raw
    return bytes([0xC7, len(inside), code]) + inside


SHAPE = b"\x92\x01\x02"  # [1, 2]
GOOD = array(SHAPE, "float32", bytes(8))


def one(value: bytes) -> bytes:
    return b"\x81" + text("wte") + value


def read(path, data: bytes):
    path.write_bytes(data)
    with Checkpoint("flax-msgpack", path) as checkpoint:
        tensors = flax_msgpack.read_file(checkpoint, path, Budget("test"))
        return {name: tensor.read() for name, tensor in tensors.items()}


def test_a_sound_file(tmp_path):
    assert read(tmp_path / "x.msgpack", one(GOOD))["wte"].shape == (1, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (one(array(SHAPE, "float32", bytes(7))), "another number of bytes"),
        (one(array(SHAPE, "float99", bytes(8))), "unknown dtype 'float99'"),
        (one(array(SHAPE, "float32", bytes(8), code=2)), "extension of the unknown type 2"),
        (one(array(b"\x91\xff", "float32", bytes(8))), "impossible shape"),
        (one(text("no array")), "'wte' is not an array"),
        (one(GOOD) + b"\xc0", "not a single map"),
        (one(GOOD)[:-1], "truncated or corrupt"),
        (b"\x82" + text("a") + GOOD + text("a") + GOOD, "repeated key 'a'"),
        (b"\x81\xc0" + GOOD, "impossible or repeated key None"),
        (b"\x81\xc1", "starts no MessagePack value"),
        (struct.pack(">BI", 0xDF, 2**32 - 1), "truncated or corrupt"),
        (struct.pack(">BI", 0xDD, 2**32 - 1), "a list of 4294967295 values"),
        (one(struct.pack(">BI", 0xC6, 2**32 - 1)), "truncated or corrupt"),
        (struct.pack(">BBI", 0x81, 0xDB, 2**32 - 1), "name of 4294967295 bytes"),
        (b"\x81\xa1\xff" + GOOD, "not UTF-8"),
        (b"\x81\xa1a" * 1000, "nested beyond reason"),
        (b"\x90", "not a single map"),
        (one(b"\x81" + text("__msgpack_chunked_array__") + b"\xc3"), "lacks its shape or chunks"),
        (b"", "truncated or corrupt"),
    ],
)
def test_what_is_not_sound_is_refused(tmp_path, data, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path / "x.msgpack", data)
    assert "x.msgpack" in str(caught.value)
