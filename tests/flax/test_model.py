"""FlaxGPT2 as an NNX module, under JAX's transformations, and as transformers' Flax models are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.traverse_util import flatten_dict

from flax import nnx
from gpt2x import flax as gpt2x_flax
from gpt2x.errors import InvalidInputError
from gpt2x.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model, register_attention
from support.contract.model import ModelContract
from support.flax_models import BACKEND, random_ids, tiny_config, tiny_model, tiny_params
from support.ignored_labels import IGNORED, ids_for

IDS = random_ids(2, 6)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def logits(model):
    return np.asarray(model(IDS).logits)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_module_can_be_split_merged_filtered_and_shown(model, logits):
    graph, state = nnx.split(model, nnx.Param)
    close(nnx.merge(graph, state)(IDS).logits, logits)
    close(model(IDS, params=state).logits, logits)
    close(model(IDS, params=nnx.to_pure_dict(state)).logits, logits)
    kernels = nnx.state(model, lambda path, _: path[-1] == "kernel")
    assert len(jax.tree.leaves(kernels)) == 4 * 2
    assert "Total Parameters: 16,728" in nnx.tabulate(model, IDS, use_cache=False)


def test_params_are_transformers_tree(model, logits):
    params = model.params
    assert set(params) == set(model._params) == {"transformer"}
    assert params["transformer"]["h"]["1"]["attn"]["c_attn"]["kernel"].shape == (72, 24)
    assert params["transformer"]["wte"]["embedding"].shape == (61, 24)
    assert ("transformer", "ln_f", "scale") in model.required_params
    untied = tiny_model(tie_word_embeddings=False)
    assert untied.params["lm_head"]["kernel"].shape == (24, 61)
    assert set(FlaxGPT2Model(tiny_config(), _do_init=False).params_shape_tree) == {
        "h",
        "ln_f",
        "wpe",
        "wte",
    }
    other = tiny_model()
    other.params = freeze(jax.tree.map(lambda array: array * 2, params))
    assert np.abs(np.asarray(other(IDS).logits) - logits).max() > 0.1
    close(other(IDS, params=params).logits, logits)
    missing = {"transformer": {k: v for k, v in params["transformer"].items() if k != "wpe"}}
    with pytest.raises(InvalidInputError, match="Missing: transformer/wpe/embedding"):
        model(IDS, params=missing)
    with pytest.raises(InvalidInputError, match=r"params must be a tree of arrays.*got list"):
        model(IDS, params=[params])
    wrong = jax.tree.map(lambda array: array[:1], params)
    with pytest.raises(InvalidInputError, match=r"wpe/embedding is \(1, 24\)"):
        model(IDS, params=wrong)


def test_without_init_params_live_outside():
    model = FlaxGPT2LMHeadModel(tiny_config(n_layer=1), _do_init=False)
    with pytest.raises(InvalidInputError, match="_do_init=False"):
        _ = model.params
    with pytest.raises(InvalidInputError, match="_do_init=False"):
        model.params = {}
    with pytest.raises(InvalidInputError, match="_do_init=False"):
        model(IDS)
    params = model.init_weights(model.key, model.input_shape)
    assert set(flatten_dict(params)) == model.required_params
    shapes = flatten_dict(model.params_shape_tree)
    assert all(array.shape == shapes[path].shape for path, array in flatten_dict(params).items())
    assert model(IDS, params=params).logits.shape == (2, 6, 61)


def test_initial_weights_follow_the_paper_and_the_seed():
    config = tiny_config(initializer_range=0.02, n_embd=96, n_layer=2)
    first, same, other = (FlaxGPT2Model(config, seed=seed) for seed in (0, 0, 1))
    kernel = first.params["h"]["0"]["mlp"]["c_proj"]["kernel"]
    assert np.std(kernel) == pytest.approx(0.02 / 2, rel=0.05)
    assert np.std(first.params["wte"]["embedding"]) == pytest.approx(0.02, rel=0.05)
    assert (first.params["ln_f"]["scale"] == 1).all()
    assert (first.params["wte"]["embedding"] == same.params["wte"]["embedding"]).all()
    assert (first.params["wte"]["embedding"] != other.params["wte"]["embedding"]).any()
    assert (kernel != first.params["h"]["1"]["mlp"]["c_proj"]["kernel"]).any()
    by_rngs = [FlaxGPT2Model(tiny_config(), rngs=nnx.Rngs(seed)) for seed in (5, 5, 6)]
    tables = [model.wte.embedding.get_value() for model in by_rngs]
    assert (tables[0] == tables[1]).all()
    assert (tables[0] != tables[2]).any()


def test_pure_under_jit_grad_and_vmap(model, logits):
    jitted = jax.jit(lambda module, ids: module(ids).logits)
    close(jitted(model, IDS), logits)
    rows = jax.vmap(lambda row: model(row[None]).logits[0])(IDS)
    close(rows, logits)
    model = tiny_model(n_layer=1)
    gradient = jax.jit(jax.grad(lambda params: model(IDS, params=params, labels=IDS).loss))
    plain = gradient(model.params)
    by_module = jax.jit(jax.grad(lambda module: module(IDS, labels=IDS).loss))(model)
    close(by_module.transformer.wte.embedding.get_value(), plain["transformer"]["wte"]["embedding"])


@pytest.mark.parametrize("name", IGNORED)
def test_the_mean_over_no_label_is_nan_and_moves_nothing(name):
    model = tiny_model(getattr(gpt2x_flax, f"FlaxGPT2{name}"), pad_token_id=60)

    def losses(params):
        output = model(ids_for(name), params=params, **IGNORED[name])
        return [output[field] for field in ("loss", "mc_loss") if field in output]

    gradient, values = jax.grad(lambda params: (sum(losses(params)), losses(params)), has_aux=True)(
        model.params
    )
    assert all(jnp.isnan(value) for value in values)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_no_label_in_a_batch_that_is_counted_elsewhere(model):
    assert model(IDS, labels=IGNORED["LMHeadModel"]["labels"], num_items_in_batch=7).loss == 0


def test_dropout_takes_keys_and_nothing_else(model, logits):
    with pytest.raises(InvalidInputError, match="dropout_rng"):
        model(IDS, train=True)
    key = jax.random.PRNGKey(0)
    first = model(IDS, dropout_rng=key, train=True).logits
    close(model(IDS, dropout_rng=key, train=True).logits, first)
    assert np.abs(first - logits).max() > 0.1
    other = model(IDS, dropout_rng=jax.random.PRNGKey(1), train=True).logits
    assert np.abs(first - other).max() > 0.1
    close(model(IDS, dropout_rng=key).logits, logits)
    with pytest.raises(InvalidInputError, match=r"got Rngs.*rngs\.dropout\(\)"):
        model(IDS, dropout_rng=nnx.Rngs(0), train=True)


def test_train_and_eval_decide_where_a_call_does_not():
    model = tiny_model(n_layer=1)
    logits = model(IDS).logits
    key = nnx.Rngs(dropout=0).dropout()
    model.train()
    with pytest.raises(InvalidInputError, match="dropout_rng"):
        model(IDS)
    dropped = model(IDS, dropout_rng=key).logits
    close(dropped, model(IDS, dropout_rng=key, train=True).logits)
    assert np.abs(dropped - logits).max() > 0.1
    close(model(IDS, train=False).logits, logits)
    assert model.generate(IDS, max_new_tokens=1).shape == (2, 7)  # which drops nothing out
    model.eval()
    close(model(IDS, dropout_rng=key).logits, logits)


def test_training_with_nnx_optimizer_lowers_the_loss():
    model = tiny_model(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, n_layer=1)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: model(IDS, labels=IDS).loss)(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.1


def test_gradient_checkpointing_gives_the_same_gradients():
    def gradient(model):
        key = jax.random.PRNGKey(0)

        def loss(params):
            return model(IDS, params=params, labels=IDS, dropout_rng=key, train=True).loss

        return jax.jit(jax.grad(loss))

    model, checkpointed = tiny_model(n_layer=1), tiny_model(n_layer=1)
    expected = gradient(model)(model.params)
    checkpointed.enable_gradient_checkpointing()
    assert checkpointed.is_gradient_checkpointing
    assert "remat" in str(jax.make_jaxpr(gradient(checkpointed))(model.params))
    jax.tree.map(close, gradient(checkpointed)(model.params), expected)


def test_old_configs_switch_checkpointing_on():
    assert tiny_model(gradient_checkpointing=True, n_layer=1).is_gradient_checkpointing


def test_users_attention_implementations(model, logits):
    def doubled(query, key, value, mask, *, scaling, dropout):
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key) * scaling + mask
        return jnp.einsum("bhts,bhsd->bhtd", jax.nn.softmax(scores), value)

    register_attention("doubled", doubled)
    other = tiny_model()
    other.set_attn_implementation("doubled")
    close(other(IDS).logits, logits)
    with pytest.raises(InvalidInputError, match="Did you mean 'doubled'"):
        other.set_attn_implementation("doubledd")


def test_resized_embeddings(model):
    other = tiny_model()
    other.resize_token_embeddings(65)
    assert other(IDS).logits.shape == (2, 6, 65)
    table = other.params["transformer"]["wte"]["embedding"]
    close(table[64], table[:61].mean(axis=0))
    assert other.config.vocab_size == 65


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": IDS + 60}, "vocab_size is 61"),
        ({"input_ids": random_ids(1, 33)}, "n_positions is 32"),
        ({"input_ids": IDS, "atention_mask": 1}, "Did you mean 'attention_mask'"),
        ({"input_ids": IDS.tolist()}, "must be an array of JAX or numpy; got list"),
        ({"input_ids": IDS, "labels": IDS.tolist()}, "labels must be an array; got list"),
        ({}, "neither of them was given"),
    ],
)
def test_wrong_inputs_are_refused(model, inputs, message):
    with pytest.raises(InvalidInputError, match=message):
        model(**inputs)


def test_what_linen_modules_have_is_explained(model):
    with pytest.raises(AttributeError, match="call the model itself, with params="):
        model.module.apply({"params": model.params}, IDS)
    assert not hasattr(model, "apply")


def test_models_name_their_framework_and_vocabulary():
    model = tiny_model()
    assert (model.framework, model.vocab_size) == ("flax", model.config.vocab_size)
    model.resize_token_embeddings(7)
    assert model.vocab_size == 7


def test_tiny_params_fit(model):
    assert set(flatten_dict(tiny_params(model))) == model.required_params


class TestModel(ModelContract):
    backend = BACKEND
