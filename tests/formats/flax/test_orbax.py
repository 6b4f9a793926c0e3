"""Orbax checkpoints of Flax models: read by every backend's loader, written from any source."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from gpt2x.checkpoint import convert, open_checkpoint, open_source
from gpt2x.errors import CheckpointError, InvalidInputError, MissingBackendError
from gpt2x.models.loading import resolve
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head
from support.golden_data import SOURCE


def read_all(path):
    with open_checkpoint(path) as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.items()}


def test_without_flax_the_extra_is_named(tmp_path, monkeypatch):
    for library in ("tensorstore", "jax"):
        monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "_METADATA").write_text("{}")
    for path in (tmp_path, tmp_path / "params"):
        with pytest.raises(MissingBackendError, match=r'pip install "gpt2x\[flax\]"'):
            open_checkpoint(path)
    with pytest.raises(MissingBackendError, match=r'pip install "gpt2x\[flax\]"'):
        convert(SOURCE, tmp_path / "new", to="orbax")
    assert not (tmp_path / "new").exists()


# What needs Flax, which brings Orbax


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("jax")  # not flax: tests/flax would pass for it
    folder = tmp_path_factory.mktemp("orbax") / "model"
    convert(SOURCE, folder, to="orbax")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "orbax")


def test_a_checkpoint_from_any_source(folder):
    with open_checkpoint(folder) as checkpoint, open_checkpoint(SOURCE) as source:
        assert checkpoint.format == "orbax"
        assert checkpoint.config["n_head"] == 2
        assert checkpoint.keys() == source.keys()
        for name, tensor in source.items():
            np.testing.assert_array_equal(checkpoint[name].read(), tensor.read(), err_msg=name)
    assert (folder / "merges.txt").read_bytes() == (SOURCE / "merges.txt").read_bytes()


def test_the_model_of_it_and_back(folder, tmp_path):
    from gpt2x.flax import FlaxGPT2LMHeadModel
    from gpt2x.flax.orbax import load_orbax, save_orbax

    model = load_orbax(FlaxGPT2LMHeadModel, folder)
    model.generation_config.max_new_tokens = 7
    save_orbax(model, tmp_path / "saved")
    again = FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    assert again.generation_config.max_new_tokens == 7
    made = convert(tmp_path / "saved", tmp_path / "new", verify=True)
    assert made.difference == (0.0, "")
    assert made.head is Head.LM
    with resolve("GPT2LMHeadModel", tmp_path / "new") as found:
        plan_load(found.checkpoint, found.config, Head.LM, strict=True)
    with pytest.raises(InvalidInputError, match="already contains parameters"):
        save_orbax(model, tmp_path / "saved")


def test_a_save_that_is_cut_short_leaves_nothing(folder, tmp_path, monkeypatch):
    from gpt2x.flax import FlaxGPT2LMHeadModel, orbax

    def stop(*arguments):
        raise KeyboardInterrupt

    model = FlaxGPT2LMHeadModel.from_pretrained(folder)
    monkeypatch.setattr(orbax, "save_params", stop)
    with pytest.raises(KeyboardInterrupt):
        orbax.save_orbax(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_body_in_half_precision(tmp_path):
    pytest.importorskip("jax")  # not flax: tests/flax would pass for it
    import jax.numpy as jnp

    from gpt2x.flax import FlaxGPT2Model
    from gpt2x.flax.orbax import save_orbax

    save_orbax(FlaxGPT2Model.from_pretrained(SOURCE, jnp.bfloat16, param_dtype="bfloat16"),
               tmp_path)  # fmt: skip
    with open_source(tmp_path) as source:
        assert source.head is Head.NONE
        assert source.checkpoint["wte.weight"].dtype.name == source.config.dtype == "bfloat16"


@pytest.mark.parametrize("wrapped", [True, False])
def test_parameters_saved_by_other_code(folder, tmp_path, wrapped):
    from orbax.checkpoint import StandardCheckpointer

    from flax import nnx
    from gpt2x.flax import FlaxGPT2LMHeadModel

    model = FlaxGPT2LMHeadModel.from_pretrained(folder)
    saved = {"params": model.params, "step": np.array(3)} if wrapped else nnx.state(model)
    with StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "own", saved)
    with open_source(tmp_path / "own", n_head=2) as source, open_checkpoint(SOURCE) as expected:
        assert set(source.checkpoint) - {"step"} == set(expected)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(source.checkpoint[name].read(), tensor.read())


@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt", "d/*"])
def test_damage_is_one_clear_error(folder, file, damage):
    for path in (folder / "params").glob(file):
        data = path.read_bytes()
        if damage == "lost":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            path.write_bytes(data[: len(data) // 2] + b"\0\0\0\0" + data[len(data) // 2 + 4 :])
    with pytest.raises(CheckpointError):
        read_all(folder)


def test_what_claims_more_than_it_holds(folder):
    from gpt2x.flax import FlaxGPT2LMHeadModel
    from gpt2x.flax.orbax import load_orbax

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    with pytest.raises(InvalidInputError, match=r"transformer/wte/embedding is \(97, 32\)"):
        load_orbax(FlaxGPT2LMHeadModel, folder)
    shutil.rmtree(folder / "params")
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_orbax(FlaxGPT2LMHeadModel, folder)
