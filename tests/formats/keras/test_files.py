"""Files of Keras 3: of `gpt2x.tf`, of KerasHub, and of neither."""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gpt2x.checkpoint import convert, open_checkpoint, open_source
from gpt2x.errors import CheckpointError, MissingBackendError
from gpt2x.weights.table import Head
from support.golden_data import FILES, GOLDEN, SOURCE

h5py = pytest.importorskip("h5py")


def rewrite(path: Path, target: Path, change) -> Path:
    """Copy a ``.keras`` file with its config changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


def test_half_precision_as_keras_stores_it(tmp_path):
    """HDF5 has no bfloat16: Keras stores two opaque bytes and names the dtype."""
    values = np.arange(6).reshape(3, 2).astype(ml_dtypes.bfloat16)
    path = tmp_path / "gpt2.weights.h5"
    with h5py.File(path, "w") as file:
        for name, array in (("wte", values), ("wpe", values + 1)):
            dataset = file.create_dataset(f"base_model/{name}/vars/0", data=array.view("V2"))
            dataset.attrs["dtype"] = "bfloat16"
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint["wpe.weight"]
        assert tensor.dtype == values.dtype
        np.testing.assert_array_equal(tensor.read(), values + 1)
        np.testing.assert_array_equal(tensor.rows(1, 3), values[1:] + 1)
    with h5py.File(path, "a") as file:
        del file["base_model/wte/vars/0"].attrs["dtype"]
    with pytest.raises(CheckpointError, match="not a plain array of numbers"):
        open_checkpoint(path)


def test_a_whole_model_of_keras_hub_brings_its_tokenizer():
    with open_source(FILES / "keras_hub_model" / "gpt2.keras") as source:
        assert (source.config.n_head, source.inferred) == (2, False)
        vocabulary = json.loads(source.tokenizer["vocab.json"])
        assert vocabulary == json.loads((SOURCE / "vocab.json").read_text())
        merges = source.tokenizer["merges.txt"].decode().splitlines()
        assert [line for line in merges if not line.startswith("#")] == ["! !", "!! !"]


def test_models_of_keras_that_are_no_gpt2_are_named(tmp_path):
    def other(config):
        config |= {"module": "keras", "class_name": "Sequential"}

    path = rewrite(FILES / "keras_hub_model" / "gpt2.keras", tmp_path / "x.keras", other)
    with pytest.raises(CheckpointError, match=r"a Sequential of Keras, holds no GPT-2"):
        open_checkpoint(path)
    path = rewrite(path, tmp_path / "y.keras", lambda config: config.update(config=[]))
    with pytest.raises(CheckpointError, match=r"is not a sound \.keras file"):
        open_checkpoint(path)


def test_an_entry_that_claims_more_than_the_file_holds(tmp_path):
    path = tmp_path / "x.keras"
    data = bytearray((FILES / "keras_tf" / "gpt2.keras").read_bytes())
    with zipfile.ZipFile(FILES / "keras_tf" / "gpt2.keras") as archive:
        name = archive.infolist()[1].filename.encode()
    entry = data.index(name, data.index(b"PK\x01\x02")) - 46  # of the central directory
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="claims more bytes than the file has"):
            open_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_the_class_is_known_by_the_archive(tmp_path):
    def body(config):
        config["class_name"] = "TFGPT2Model"

    path = rewrite(FILES / "keras_tf" / "gpt2.keras", tmp_path / "x.keras", body)
    with open_source(path) as source:
        assert source.head is Head.NONE


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for name in ("x.keras", "x.weights.h5"):
        with pytest.raises(MissingBackendError, match=r'pip install "gpt2x\[tf\]"'):
            convert(SOURCE, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
class TestWithTensorFlow:
    """What needs TensorFlow, which writes these files."""

    @pytest.fixture(autouse=True)
    def _tensorflow(self):
        pytest.importorskip("tensorflow")

    @pytest.mark.parametrize("name", ["gpt2.keras", "gpt2.weights.h5", "folder"])
    @pytest.mark.parametrize("dtype", [None, "bfloat16"])
    def test_a_file_from_any_source(self, tmp_path, name, dtype):
        made = convert(SOURCE, tmp_path / name, to="keras-tf", dtype=dtype, verify=True)
        assert (made.difference.largest > 0) == (dtype is not None)
        path = tmp_path / name / "model.keras" if name == "folder" else tmp_path / name
        with open_checkpoint(path) as checkpoint, open_checkpoint(SOURCE) as source:
            assert checkpoint.format == "keras-tf"
            for key, tensor in source.items():
                expected = tensor.read().astype(checkpoint[key].dtype)
                np.testing.assert_array_equal(checkpoint[key].read(), expected)
        if name == "folder":
            assert (tmp_path / name / "merges.txt").is_file()

    @pytest.mark.parametrize("model", ["plain", "double_heads", "token_classification"])
    def test_keras_loads_it(self, tmp_path, model):
        import keras

        convert(GOLDEN / model, tmp_path / "x.keras")
        loaded = keras.models.load_model(tmp_path / "x.keras")
        with open_source(GOLDEN / model) as source:
            assert type(loaded).__name__ == f"TF{source.head.architecture}"
            assert loaded.config.n_inner == source.config.n_inner
            variables = dict(loaded._canonical_variables())
            assert variables.keys() <= source.checkpoint.keys()
            loaded.save_pretrained(tmp_path / "back")
            with open_checkpoint(tmp_path / "back") as back:
                for name in variables:
                    expected = source.checkpoint[name].read()
                    np.testing.assert_array_equal(back[name].read(), expected)
