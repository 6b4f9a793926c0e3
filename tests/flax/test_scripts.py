"""A training script as written for transformers' FlaxGPT2LMHeadModel, with only its import changed.

The shape of transformers' examples/flax/language-modeling/run_clm_flax.py: TrainState, an optimizer
with a decay mask over flattened names, dropout keys, a loss of shifted one-hot labels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from flax.training.common_utils import onehot, shard, shard_prng_key

from flax import jax_utils, traverse_util
from gpt2x.flax import FlaxGPT2LMHeadModel
from support.flax_models import random_ids, tiny_config


class TrainState(train_state.TrainState):
    dropout_rng: jnp.ndarray

    def replicate(self):
        return jax_utils.replicate(self).replace(dropout_rng=shard_prng_key(self.dropout_rng))


def decay_mask_fn(params):
    flat_params = traverse_util.flatten_dict(params)
    layer_norms = {
        layer[-2:]
        for name in ["layernorm", "layer_norm", "ln"]
        for layer in flat_params
        if name in "".join(layer).lower()
    }
    flat_mask = {
        path: (path[-1] != "bias" and path[-2:] not in layer_norms) for path in flat_params
    }
    return traverse_util.unflatten_dict(flat_mask)


def loss_fn(logits, labels):
    shift_logits = logits[..., :-1, :]
    shift_labels = labels[..., 1:]
    loss = optax.softmax_cross_entropy(shift_logits, onehot(shift_labels, shift_logits.shape[-1]))
    return loss.mean()


def test_a_transformers_training_script_runs(tmp_path):
    model = FlaxGPT2LMHeadModel(tiny_config(n_layer=1), seed=0, dtype=jnp.dtype("float32"))
    mask = traverse_util.flatten_dict(decay_mask_fn(model.params))
    assert not mask["transformer", "ln_f", "scale"]
    assert mask["transformer", "h", "0", "attn", "c_attn", "kernel"]
    adamw = optax.adamw(1e-2, weight_decay=0.1, mask=decay_mask_fn)
    state = TrainState.create(
        apply_fn=model.__call__,
        params=model.params,
        tx=adamw,
        dropout_rng=jax.random.PRNGKey(0),
    )

    def train_step(state, batch):
        dropout_rng, new_dropout_rng = jax.random.split(state.dropout_rng)

        def compute_loss(params):
            labels = batch["labels"]
            logits = state.apply_fn(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                params=params,
                dropout_rng=dropout_rng,
                train=True,
            )[0]
            return loss_fn(logits, labels)

        loss, grad = jax.value_and_grad(compute_loss)(state.params)
        grad = jax.lax.pmean(grad, "batch")
        new_state = state.apply_gradients(grads=grad, dropout_rng=new_dropout_rng)
        return new_state, jax.lax.pmean(loss, axis_name="batch")

    p_train_step = jax.pmap(train_step, "batch", donate_argnums=(0,))
    state = state.replicate()

    ids = random_ids(4, 8)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids}
    losses = []
    for _ in range(12):
        state, loss = p_train_step(state, shard(batch))
        losses.append(float(jax_utils.unreplicate(loss)))
    assert np.mean(losses[-3:]) < losses[0] - 0.3
    params = jax.device_get(jax.tree_util.tree_map(lambda x: x[0], state.params))
    model.save_pretrained(tmp_path, params=params)
    loaded = FlaxGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        loaded.params["transformer"]["wte"]["embedding"],
        params["transformer"]["wte"]["embedding"],
    )
