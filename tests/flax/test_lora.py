"""LoRA adapters in Flax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from flax import nnx
from gpt2x import flax as gpt2x_flax
from gpt2x.config.lora import LoraConfig
from gpt2x.errors import InvalidInputError
from gpt2x.flax.lora import trainable
from gpt2x.flax.orbax import save_orbax
from support.contract.adapters import LANGUAGE_MODEL, AdapterContract, outputs
from support.flax_models import BACKEND, tiny_config


class TestAdapters(AdapterContract):
    backend = BACKEND

    def trainable(self, model):
        return [v.shape for v in jax.tree.leaves(nnx.state(model, trainable(model)))]

    def losses(self, model, ids):
        wrt = trainable(model)
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=wrt)
        ids, found = jnp.asarray(ids), []

        @nnx.jit
        def step(model, optimizer):
            def loss_of(model):
                return model(ids, labels=ids).loss

            loss, gradients = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, wrt))(model)
            optimizer.update(model, gradients)
            return loss

        for _ in range(3):
            found.append(float(step(model, optimizer)))
        return found

    def training_logits(self, model, ids):
        with pytest.raises(InvalidInputError, match=r"dropout_rng=.*lora_dropout to 0"):
            model(ids, train=True)
        return model(ids, train=True, dropout_rng=jax.random.key(0)).logits

    def test_parameters_outside_of_the_model_hold_the_adapter(self, tmp_path):
        model, expected = self.base(), outputs("language_model")
        model.load_adapter(LANGUAGE_MODEL)
        params = jax.tree.map(lambda array: array, model.params)
        assert params["transformer"]["h"]["0"]["attn"]["c_attn"]["lora"]["A"].shape == (4, 24)
        model.save_pretrained(tmp_path, params=jax.tree.map(lambda array: 0 * array, params))
        other = self.base()
        other.load_adapter(tmp_path)
        other.params = params
        self.assert_computes(other, expected)

    def test_a_model_without_arrays_takes_no_adapter(self):
        model = gpt2x_flax.FlaxGPT2LMHeadModel(tiny_config(), _do_init=False)
        with pytest.raises(InvalidInputError, match="_do_init=False"):
            model.add_adapter(LoraConfig())

    def test_factors_of_half_precision_models_are_float32(self):
        options = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
        model = gpt2x_flax.FlaxGPT2LMHeadModel(tiny_config(), **options)
        model.add_adapter(LoraConfig())
        assert model.transformer.h[0].attn.c_attn.lora.A.dtype == jnp.float32
        assert model(jnp.array([[1, 2]])).logits.dtype == jnp.bfloat16

    def test_checkpoints_of_orbax_are_refused(self, tmp_path):
        model = self.base()
        model.load_adapter(LANGUAGE_MODEL)
        with pytest.raises(InvalidInputError, match="an Orbax checkpoint cannot hold"):
            save_orbax(model, tmp_path)
