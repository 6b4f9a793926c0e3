"""The safetensors reader and writer, against the format's own package."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats import safetensors as ours
from gpt2x.formats.base import Checkpoint
from gpt2x.storage.budget import Budget
from gpt2x.weights.lazy import BFLOAT16, LazyTensor

ARRAYS = {
    "h.0.ln_1.weight": np.arange(4, dtype=np.float32),
    "wte.weight": np.arange(12, dtype=np.float16).reshape(3, 4),
    "steps": np.array(7, dtype=np.int64),
    "mask": np.array([[True, False]]),
    "empty": np.zeros((0, 4), np.float64),
}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with Checkpoint("safetensors", path) as checkpoint:
        tensors = ours.read_file(checkpoint, path, Budget("test"))
        return {name: tensor.read() for name, tensor in tensors.items()}, checkpoint.metadata


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    ours.write(path, {k: LazyTensor.of(v) for k, v in arrays.items()}, {"format": "pt"})


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_reads_what_the_package_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, {"format": "pt"})
    got, metadata = read(path)
    assert_equal(got, ARRAYS)
    assert metadata == {"format": "pt"}


def test_the_package_reads_what_is_written(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, ARRAYS)
    assert_equal(safetensors.numpy.load_file(path), ARRAYS)
    with safetensors.safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int32]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0),
        elements=st.integers(-8, 8),
    )
)
def test_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    write(path, {"x": array, "y": array.T})
    assert_equal(read(path)[0], {"x": array, "y": array.T})


def test_rows_of_a_tensor(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, {"x": np.arange(100, dtype=np.float32).reshape(25, 4)})
    checkpoint = Checkpoint("safetensors", path)
    tensor = ours.read_file(checkpoint, path, Budget("test"))["x"]
    np.testing.assert_array_equal(tensor.rows(3, 5), tensor.read()[3:5])
    blocks = list(tensor.blocks(64))
    assert [len(block) for block in blocks] == [4] * 6 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), tensor.read())
    assert tensor.read(BFLOAT16).dtype == BFLOAT16
    checkpoint.close()


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_types_of_eight_bits(tmp_path, dtype):
    array = np.arange(8).astype(dtype)
    write(tmp_path / "x", {"x": array})
    assert_equal(read(tmp_path / "x")[0], {"x": array})


def test_a_dtype_that_the_format_lacks(tmp_path):
    with pytest.raises(InvalidInputError, match="'x': dtype complex64"):
        write(tmp_path / "x", {"x": np.zeros(2, np.complex64)})


def file_with(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SHAPE_OF_MANY_AXES = {"x": {**ENTRY, "shape": [1] * 1000 + [2]}}
# Each alone is sound, so that the package reads the second.
TWICE = b'{"x":%s,"x":%s}' % tuple(
    json.dumps(ENTRY | {"dtype": d}).encode() for d in ("F32", "I32")
)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"x": ENTRY}, b"1234", "truncated.*not fully covered"),
        ({"x": ENTRY}, b"123456789", "truncated.*not fully covered"),
        ({"x": {**ENTRY, "shape": [3]}}, b"12345678", "invalid shape"),
        ({"x": {**ENTRY, "shape": [-2]}}, b"12345678", "invalid value: integer `-2`"),
        ({"x": {**ENTRY, "shape": [2**40, 2**40]}}, b"12345678", "overflow"),
        (SHAPE_OF_MANY_AXES, b"12345678", "'x' has an impossible shape"),
        ({"x": {**ENTRY, "dtype": "F7"}}, b"12345678", "unknown variant `F7`"),
        ({"x": {**ENTRY, "dtype": "F8_E8M0", "shape": [8]}}, b"12345678", "dtype 'F8_E8M0'"),
        ({"x": {**ENTRY, "data_offsets": [8, 0]}}, b"12345678", "invalid offset for tensor"),
        ({"x": {**ENTRY, "data_offsets": ["0", "8"]}}, b"12345678", "invalid type: string"),
        ({"x": ENTRY, "y": ENTRY}, b"12345678", "invalid offset for tensor"),
        ({"x": {**ENTRY, "data_offsets": [4, 12]}}, b"123456789012", "invalid offset for tensor"),
        ({"x": 3}, b"", "invalid type: integer"),
        ([1], b"", "invalid type: sequence"),
        (TWICE, b"12345678", "names a tensor twice"),
        (b"{" * 50000, b"", r"not valid JSON\. Download or copy it again\."),
        (b"\xff\xfe", b"", "not valid JSON"),
    ],
)
def test_a_bad_header_is_refused(tmp_path, header, data, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(file_with(tmp_path / "bad.safetensors", header, data))
    assert "bad.safetensors" in str(caught.value)


def test_an_absurd_header_size_allocates_nothing(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="header would take"):
        read(path)
    path.write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="truncated"):
        read(path)
