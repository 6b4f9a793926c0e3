"""Models called, trained and decoded on eight virtual CPU devices, in a process that has them."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, optax, pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, auto_axes
from support.flax_models import random_ids, tiny_model
from gpt2x.errors import InvalidInputError
from gpt2x.flax import shard_params
jax.config.update("jax_disable_most_optimizations", True)

assert len(jax.devices()) == 8
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
fields = {"eos_token_id": None, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
model = tiny_model(n_head=4, vocab_size=64, n_layer=1, **fields)
ids = random_ids(4, 6)
expected = np.asarray(model(ids).logits)

params = shard_params(model.params, mesh)
body = params["transformer"]
block = body["h"]["0"]
shards = {
    "c_attn": (block["attn"]["c_attn"]["kernel"], (72 // 4, 24)),
    "c_attn bias": (block["attn"]["c_attn"]["bias"], (72 // 4,)),
    "attn.c_proj": (block["attn"]["c_proj"]["kernel"], (24, 24 // 4)),
    "c_fc": (block["mlp"]["c_fc"]["kernel"], (96 // 4, 24)),
    "mlp.c_proj": (block["mlp"]["c_proj"]["kernel"], (24, 96 // 4)),
    "wte": (body["wte"]["embedding"], (64 // 4, 24)),
    "ln_f": (body["ln_f"]["scale"], (24,)),
}
for name, (array, shape) in shards.items():
    assert {shard.data.shape for shard in array.addressable_shards} == {shape}, name

data = jax.device_put(ids, NamedSharding(mesh, PartitionSpec("data")))
logits = jax.jit(lambda params, ids: model(ids, params=params).logits)(params, data)
np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(model.with_params(params)(data).logits, expected, rtol=1e-5, atol=1e-5)

optimizer = optax.adam(1e-2)

@jax.jit
def train(params, state, ids):
    loss, gradients = jax.value_and_grad(
        lambda params: model(ids, params=params, labels=ids, train=True).loss
    )(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss

def losses(params, ids):
    state = optimizer.init(params)
    for _ in range(3):
        params, state, loss = train(params, state, ids)
        yield float(loss)

alone = list(losses(model.params, ids))
assert alone[-1] < alone[0] - 0.1
np.testing.assert_allclose(list(losses(params, data)), alone, rtol=1e-5)

sampling = {"max_new_tokens": 4, "do_sample": True, "seed": 1}
texts = model.generate(ids, **sampling)
with jax.set_mesh(mesh):
    np.testing.assert_array_equal(model.generate(data, params=params, **sampling), texts)

explicit = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
params = shard_params(model.params, explicit)
data = jax.device_put(ids, NamedSharding(explicit, PartitionSpec("data")))
with pytest.raises(InvalidInputError, match="mesh has explicit axes"):
    model(ids, params=params)
with pytest.raises(InvalidInputError, match="mesh has explicit axes"):
    model.generate(ids, params=params, **sampling)
with pytest.raises(InvalidInputError, match="mesh has explicit axes"):
    model(data)

def loss(params, ids):
    return model(ids, params=params, labels=ids, train=True).loss

def write(params, ids):
    return model.generate(ids, params=params, **sampling).sequences

with jax.set_mesh(explicit):
    loss, gradients = jax.jit(jax.value_and_grad(auto_axes(loss, out_sharding=PartitionSpec())))(
        params, data
    )
    np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
    kernel = gradients["transformer"]["h"]["0"]["mlp"]["c_fc"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec("model", None)
    written = auto_axes(write, out_sharding=PartitionSpec("data"))(params, data)
    np.testing.assert_array_equal(written, texts)

odd = tiny_model(n_head=4, n_layer=1)  # 61 tokens do not split
table = shard_params(odd.params, mesh)["transformer"]["wte"]["embedding"]
assert {shard.data.shape for shard in table.addressable_shards} == {(61, 24)}
print("done")
"""


def test_kernels_are_partitioned_and_numbers_stay():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert done.stdout == "done\n", done.stderr[-3000:]
