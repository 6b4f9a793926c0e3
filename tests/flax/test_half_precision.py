"""Half precision under each flag: padded, cached, scores of any size."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.flax_models import random_ids, tiny_model

FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
LENGTHS = (3, 8, 5)
WIDTH = max(LENGTHS)
TEXTS = [random_ids(n, seed=n) for n in LENGTHS]


def with_large_scores(path, array):
    """Make every score larger by 260 * 260, which changes no weight of attention."""
    module, name = path[-2].key, path[-1].key
    array = np.array(array) / (3 if name in ("kernel", "embedding") else 1)
    if module == "c_attn":
        # The first channel of each head's queries and keys; heads have a width of 8.
        array[:48:8] = 260 if name == "bias" else 0
    return array


def models_under(flags, implementation, dtype):
    """Return a model, and one of the same weights in float32."""
    fields = dict(zip(FLAGS, flags, strict=True), attn_implementation=implementation)
    half, exact = tiny_model(options={"dtype": dtype}, **fields), tiny_model(**fields)
    params = jax.tree_util.tree_map_with_path(with_large_scores, half.params)
    params = jax.tree.map(lambda array: jnp.asarray(array, dtype), params)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), params)
    return half.with_params(params), exact.with_params(wide)


def padded(side):
    ids, mask = np.full((len(TEXTS), WIDTH), 7), np.zeros((len(TEXTS), WIDTH), int)
    for row, text in enumerate(TEXTS):
        place = slice(WIDTH - len(text), WIDTH) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask


def logits_of(model, ids, mask, cached):
    """Run [B, T] as a whole; or four columns, then one at a time."""
    past = model.init_cache(len(ids), 12) if cached else None
    logits = []
    for start, end in itertools.pairwise((0, 4, 5, 6, 7, 8) if cached else (0, WIDTH)):
        output = model(ids[:, start:end], mask[:, :end], past_key_values=past)
        logits.append(np.asarray(output.logits, np.float32))
        past = output.past_key_values
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize(
    ("implementation", "dtype", "flags"),
    [
        ("sdpa", "float16", (True, False, False)),
        ("sdpa", "float16", (False, True, False)),
        ("sdpa", "float16", (True, False, True)),
        ("sdpa", "bfloat16", (True, False, False)),
        ("eager", "bfloat16", (False, True, False)),
    ],
)
def test_every_way_to_attend(implementation, dtype, flags):
    """As close to float32 as the type can be, and each padded row to the row alone."""
    half, exact = models_under(flags, implementation, dtype)
    alone = np.asarray(half(TEXTS[0][None]).logits[0], np.float32)
    eps = float(jnp.finfo(dtype).eps)
    for side, cached in (("left", False), ("right", False), ("left", True)):
        ids, mask = padded(side)
        expected = np.asarray(exact(ids, mask).logits)
        logits = logits_of(half, ids, mask, cached)
        assert np.isfinite(logits).all()
        real, tolerance = mask == 1, 2 * eps * np.ptp(expected)
        np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=tolerance)
        np.testing.assert_allclose(logits[0, real[0]], alone, rtol=0, atol=tolerance)
