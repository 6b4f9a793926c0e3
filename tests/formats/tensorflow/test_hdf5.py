"""HDF5 files that lie, or lead elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.errors import CheckpointError, MissingBackendError
from gpt2x.models.loading import resolve
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head
from support.golden_data import GOLDEN

h5py = pytest.importorskip("h5py")

NAME = "transformer/tfgpt2lm_head_model/transformer/wpe/embeddings:0"


@pytest.fixture
def write(tmp_path):
    """Return what makes a tf_model.h5 with the help of a function, and returns its folder."""

    def make(fill) -> Path:
        with h5py.File(tmp_path / "tf_model.h5", "w") as file:
            file.attrs["layer_names"] = ["transformer"]
            fill(file)
        return tmp_path

    return make


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_an_optimizer_and_a_whole_model_of_keras_2(write):
    def fill(file):
        file[f"model_weights/{NAME}"] = np.ones((3, 2), np.float32)
        file["optimizer_weights/adam/iter:0"] = np.zeros(1)

    with open_checkpoint(write(fill)) as checkpoint:
        assert list(checkpoint) == ["wpe.weight"]
        np.testing.assert_array_equal(checkpoint["wpe.weight"].read(), np.ones((3, 2)))


@pytest.mark.parametrize("name", ["tf_h5", "tf_safetensors"])
def test_the_output_layer_is_tied_whatever_the_config_says(tmp_path, name):
    """The TensorFlow models of transformers compute logits with the embedding in any case."""
    folder = shutil.copytree(GOLDEN / "formats" / name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with resolve("GPT2LMHeadModel", folder) as source:
        assert source.config.tie_word_embeddings
        plan_load(source.checkpoint, source.config, Head.LM, strict=True)


def test_links_out_of_the_file_are_not_followed(write, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["x"] = np.ones(3)

    def external(file):
        file[NAME] = h5py.ExternalLink("secret.h5", "x")

    def soft(file):
        file["transformer/a"] = h5py.SoftLink("/transformer")

    refused(write(external), "links to 'embeddings:0' elsewhere; refused")
    refused(write(soft), "links to 'a' elsewhere; refused")


def test_data_in_other_files_is_not_read(write, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(64))

    def external(file):
        file.create_dataset(NAME, (4, 2), "f8", external=[(str(tmp_path / "raw"), 0, 64)])

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        file.create_virtual_dataset(NAME, layout)

    refused(write(external), "not a plain array")
    refused(write(virtual), "not a plain array")


def test_a_dataset_that_claims_more_than_the_file_holds(write):
    def never_written(file):
        file.create_dataset(NAME, (2**20, 2**20), "f4", chunks=(64, 64))

    refused(write(never_written), "claims 4398046511104 bytes, of which the file holds 0")


def test_texts_and_objects_are_no_weights(write):
    def text(file):
        file[NAME] = np.array([b"abc"], dtype=h5py.special_dtype(vlen=bytes))

    refused(write(text), "not a plain array of numbers")


def test_an_empty_file(write):
    refused(write(lambda file: None), "holds no weights")


def test_without_h5py_the_extra_is_named(write, monkeypatch):
    folder = write(lambda file: file.create_dataset(NAME, data=np.ones(3, "f4")))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingBackendError, match=r'pip install "gpt2x\[convert\]"'):
        open_checkpoint(folder)
