"""Models and whole texts by `jax.export`: StableHLO that runs where gpt2x is not installed."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from support.flax_models import random_ids, tiny_model

IDS = random_ids(2, 6)

# Prints what each exported function returns for IDS, and whether gpt2x was imported for it.
ELSEWHERE = """
import sys
import numpy as np
from jax import export
ids = np.load(sys.argv[1])
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        np.save(path + ".npy", export.deserialize(file.read()).call(ids))
print("gpt2x" in sys.modules)
"""


@pytest.fixture(scope="module")
def model():
    return tiny_model(eos_token_id=None, n_layer=1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_any_batch_and_length_where_gpt2x_is_not(model, tmp_path):
    batch, length = export.symbolic_shape("batch, length", constraints=["length <= 28"])
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    functions = {
        "logits": lambda ids: model(ids, jnp.ones_like(ids)).logits,
        "text": lambda ids: model.generate(ids, max_new_tokens=4).sequences,
    }
    blobs = {
        name: export.export(jax.jit(function))(ids).serialize()
        for name, function in functions.items()
    }
    short = IDS[:1, :3]
    close(export.deserialize(blobs["logits"]).call(short), model(short).logits)
    np.testing.assert_array_equal(
        export.deserialize(blobs["text"]).call(short), model.generate(short, max_new_tokens=4)
    )
    np.save(tmp_path / "ids.npy", IDS)
    for name, blob in blobs.items():
        (tmp_path / name).write_bytes(blob)
    files = [str(tmp_path / name) for name in ("ids.npy", *blobs)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, *files],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == "False\n", done.stderr[-3000:]
    close(np.load(tmp_path / "logits.npy"), model(IDS).logits)
    np.testing.assert_array_equal(
        np.load(tmp_path / "text.npy"), model.generate(IDS, max_new_tokens=4)
    )


def test_outputs_and_caches_come_back(model):
    whole = export.deserialize(export.export(jax.jit(model.__call__))(IDS).serialize())
    output = whole.call(IDS)
    close(output.logits, model(IDS).logits)
    assert output.past_key_values.length == 6
