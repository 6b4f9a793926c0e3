"""The file of a cache: its layout, and what is said of one that is damaged, foreign or newer."""

from __future__ import annotations

import contextlib
import json
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gpt2x.errors import CheckpointError
from gpt2x.models import cache_file
from gpt2x.weights.lazy import LazyTensor
from support.golden_data import GOLDEN

FILE = GOLDEN / "prompt_cache" / "prefix.safetensors"
MODEL = {"n_layer": 2, "vocab_size": 50}


def arrays(dtype: str = "float32", cross: bool = False) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 5, 4)] * 2 + ([(2, 3, 7, 4)] * 2 if cross else [])
    return [tuple(rng.normal(size=s).astype(dtype) for s in shapes) for _ in range(2)]


def write(path, layers=None, text=None, model=MODEL):
    layers = arrays() if layers is None else layers
    lazy = [tuple(map(LazyTensor.of, layer)) for layer in layers]
    cache_file.write(path, lazy, text or {}, model)


def changed(path, tensors=(), **metadata):
    """Write the file again with other tensors and metadata, by the format's own package."""
    write(path, text={"input_ids": np.zeros((2, 5), np.int32)})
    held = {**load_file(path), **dict(tensors)}
    described = {
        "format": "gpt2x-kv-cache",
        "version": "1",
        "layers": "2",
        "length": "5",
        "model": json.dumps(MODEL),
        **metadata,
    }
    save_file({name: array for name, array in held.items() if array is not None}, path, described)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("cross", [False, True])
def test_what_is_written_is_read(tmp_path, dtype, cross):
    layers = arrays(dtype, cross)
    ids, mask = np.arange(10, dtype=np.int32).reshape(2, 5), np.ones((2, 5), np.int32)
    mask[0, :2] = 0
    write(tmp_path / "cache", layers, {"input_ids": ids, "attention_mask": mask})
    found = cache_file.read(tmp_path / "cache")
    for layer, expected in zip(found.layers, layers, strict=True):
        for array, wanted in zip(layer, expected, strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)
    np.testing.assert_array_equal(found.input_ids, ids)
    np.testing.assert_array_equal(found.attention_mask, mask)
    assert found.model == MODEL


def test_the_layout_is_one_that_other_programs_read():
    tensors = load_file(FILE)
    assert sorted(tensors) == sorted(
        [f"layers.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
        + ["input_ids"]
    )
    assert tensors["layers.1.value"].shape == (1, 3, 7, 8)
    assert tensors["input_ids"].tolist() == [[42, 7, 19, 88, 3, 61, 25]]


def test_an_old_file_stays_if_a_new_one_cannot_be_written(tmp_path):
    write(tmp_path / "cache")
    before = (tmp_path / "cache").read_bytes()

    def fail() -> np.ndarray:
        raise MemoryError

    shape, dtype = (2, 3, 5, 4), np.dtype(np.float32)
    with pytest.raises(MemoryError):
        cache_file.write(tmp_path / "cache", [(LazyTensor(shape, dtype, fail),) * 2], {}, MODEL)
    assert (tmp_path / "cache").read_bytes() == before
    assert os.listdir(tmp_path) == ["cache"]


KEY = np.zeros((2, 3, 5, 4), np.float32)
IDS = np.zeros((2, 5), np.int32)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {"format": "pt"}, "is not the file of a cache: .* this is 'pt'"),
        ({}, {"version": "2"}, "has version '2' of its format; this gpt2x reads version '1'"),
        ({}, {"layers": "3"}, "tensors of 2 layers, and should have those of '3'"),
        ({}, {"length": "6"}, "holds 5 tokens, and should hold '6'"),
        ({}, {"model": "{"}, "metadata about the model is not JSON"),
        ({}, {"model": '{"n_layer": []}'}, "is not an object of plain values"),
        ({"layers.1.value": None}, {}, "tensors of 2 layers"),
        ({"layers.0.more": KEY}, {}, "tensors of 2 layers"),
        ({"more": KEY}, {}, "tensors of 2 layers"),
        (
            {"layers.1.value": KEY[:, :2]},
            {},
            r"layers.1.value is float32 \[2, 2, 5, 4\], and should",
        ),
        ({"layers.1.key": KEY.astype("float16")}, {}, "layers.1.key is float16"),
        ({"layers.0.key": KEY.astype("int32")}, {}, "its keys are int32"),
        ({"layers.0.key": KEY[0]}, {}, r"its keys are float32 \[3, 5, 4\]"),
        ({"input_ids": IDS[:, :4]}, {}, "input_ids is int32"),
        ({"input_ids": IDS.astype("int64")}, {}, "input_ids is int64"),
        ({"input_ids": IDS + 50}, {}, "token ids that its model does not have"),
        ({"input_ids": IDS - 1}, {}, "token ids that its model does not have"),
        ({"attention_mask": IDS}, {}, "attention_mask is not one of 0 and 1"),
        ({"attention_mask": IDS + 2}, {}, "attention_mask is not one of 0 and 1"),
        ({"attention_mask": IDS + 1, "input_ids": None}, {}, "attention_mask is not one of"),
    ],
)
def test_what_is_not_a_cache_is_refused(tmp_path, tensors, metadata, message):
    path = tmp_path / "cache.safetensors"
    changed(path, tensors, **metadata)
    with pytest.raises(CheckpointError, match=message):
        cache_file.read(path)


def test_a_model_is_not_a_cache():
    with pytest.raises(CheckpointError, match="is not the file of a cache"):
        cache_file.read(GOLDEN / "plain" / "model.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_cache_or_one_error(tmp_path, data):
    content = bytearray(FILE.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 900) | st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["byte", "cut", "end", "repeat"]))
        if how == "byte":
            content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif how == "cut":
            del content[at : at + 16]
        elif how == "end":
            del content[max(at, 1) :]
        else:
            content[at:at] = content[at : at + 16]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        found = cache_file.read(path)
        shapes = {array.shape for layer in found.layers for array in layer}
        assert len(found.layers) == 2
        assert len(shapes) == 1
