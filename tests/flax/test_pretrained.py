"""Loading and saving: any folder that the core reads, NNX state, pure dicts, Orbax."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax import nnx
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.flax import (
    FlaxGPT2ForTokenClassification,
    FlaxGPT2LMHeadModel,
    FlaxGPT2Model,
)
from gpt2x.flax.orbax import load_orbax, save_orbax
from gpt2x.flax.parameters import flatten
from gpt2x.unavailable import FLAX_MODEL
from support.flax_models import random_ids, tiny_config, tiny_model
from support.golden_data import GOLDEN

IDS = random_ids(2, 5, vocab_size=30)


def same(ours, theirs):
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert set(ours) == set(theirs)
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg="/".join(path))


@pytest.mark.parametrize("name", ["bin", "tf_h5", "flax_msgpack", "safetensors_sharded"])
def test_every_format_gives_the_same_params(name):
    formats = json.loads((GOLDEN / "formats" / "formats.json").read_text())
    model = FlaxGPT2LMHeadModel.from_pretrained(GOLDEN / "formats" / name)
    same(model.params, FlaxGPT2LMHeadModel.from_pretrained(GOLDEN / formats[name]["source"]).params)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_loaded(tmp_path, tied):
    model = tiny_model(tie_word_embeddings=tied, add_cross_attention=True)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    loaded, info = FlaxGPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    same(loaded.params, model.params)
    assert not any(info.values())
    assert (tmp_path / "model.safetensors.index.json").exists()
    outside, params = FlaxGPT2LMHeadModel.from_pretrained(tmp_path, _do_init=False)
    same(params, model.params)
    with pytest.raises(InvalidInputError, match="_do_init=False"):
        outside(IDS)
    half = FlaxGPT2LMHeadModel.from_pretrained(tmp_path, jnp.bfloat16, param_dtype="bfloat16")
    assert half.params["transformer"]["wte"]["embedding"].dtype == jnp.bfloat16


def test_a_new_head_is_named_and_drawn(tmp_path):
    body = tiny_model(FlaxGPT2Model)
    body.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"newly initialised: classifier\.weight"):
        model = FlaxGPT2ForTokenClassification.from_pretrained(tmp_path, num_labels=5)
    same(model.params["transformer"], body.params)
    assert model.params["classifier"]["kernel"].shape == (24, 5)
    assert np.std(model.params["classifier"]["kernel"]) > 0


def test_state_pure_dict_and_orbax(tmp_path):
    model = tiny_model(n_layer=1)
    other = FlaxGPT2LMHeadModel(tiny_config(n_layer=1), _do_init=False)
    same(other.with_params(nnx.state(model)).params, model.params)
    same(other.with_params(nnx.to_pure_dict(nnx.state(model))).params, model.params)
    nnx.update(other, nnx.state(model))
    same(other.params, model.params)
    save_orbax(model, tmp_path / "orbax")
    same(load_orbax(FlaxGPT2LMHeadModel, tmp_path / "orbax").params, model.params)
    assert {path.name for path in (tmp_path / "orbax").iterdir()} == {
        "config.json",
        "generation_config.json",
        "params",
    }
    model.save_pretrained(tmp_path / "both")
    with pytest.warns(UserWarning, match=r"also holds model\.safetensors, which is read first"):
        save_orbax(model, tmp_path / "both")


def test_a_class_of_ones_own_is_loaded(tmp_path):
    class OwnConfig(GPT2Config):
        """A config by another name."""

    class Own(FlaxGPT2LMHeadModel):
        config_class = OwnConfig

        def __init__(self, config, scale=1.0, **kwargs):
            super().__init__(config, **kwargs)
            self.scale = scale

    tiny_model(n_layer=1).save_pretrained(tmp_path)
    model = Own.from_pretrained(tmp_path, scale=2.0, seed=3)
    assert (model.scale, model.seed, type(model.config)) == (2.0, 3, OwnConfig)
    same(model.params, FlaxGPT2LMHeadModel.from_pretrained(tmp_path).params)


def test_unknown_arguments_are_refused(tmp_path):
    tiny_model(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="Did you mean 'revision'"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path, revison="main")
    with pytest.raises(InvalidInputError, match="floating dtype"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path, dtype=jnp.int32)
    with pytest.raises(InvalidInputError, match="param_dtype must be a floating dtype"):
        FlaxGPT2LMHeadModel(tiny_config(), param_dtype=None)
    assert jax.devices()


def test_what_is_not_here_says_what_to_do_instead():
    model = FlaxGPT2Model(tiny_config())
    assert not hasattr(model, "prune_heads")
    with pytest.raises(AttributeError, match=r"no 'prune_heads', .* silence heads with head_mask"):
        model.prune_heads({0: [1]})
    with pytest.raises(InvalidInputError, match="The config has pruned_heads"):
        FlaxGPT2Model(tiny_config(pruned_heads={0: [1]}))


def test_names_that_are_not_here_are_missing_and_unlisted():
    model = tiny_model()
    for name in FLAX_MODEL:
        assert not hasattr(model, name)
        assert name not in dir(model)
    with pytest.raises(AttributeError, match="no attribute 'modul_class'"):
        _ = model.modul_class
