"""Half precision under the policies of Keras and each flag: padded, cached, scores of any size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.tf import KVCache
from support.tf_models import random_ids, tiny_model

# Keras's variables are read by numpy in a way that numpy 2 will end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
LENGTHS = (3, 8)
#: Every flag under one policy, and under the others with and without float32 attention.
CASES = [
    *(("mixed_float16", flags) for flags in itertools.product([True, False], repeat=3)),
    *itertools.product(
        ("mixed_bfloat16", "float16", "bfloat16"), ((True, False, False), (True, False, True))
    ),
]
WIDTH = max(LENGTHS)
TEXTS = [random_ids(n, seed=n) for n in LENGTHS]
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def models_under(flags, policy):
    """Return a model of heads of width 8, and one of the same weights in float32.

    Under float16 what all keys have in common adds 260 * 260 to every score, more than the type
    holds; it changes no weight of attention.
    """
    fields = {**dict(zip(FLAGS, flags, strict=True)), "initializer_range": 0.1}
    half, exact = tiny_model(dtype=policy, **fields), tiny_model(**fields)
    for block in half.transformer.h if "bfloat16" not in policy else ():
        # The first channel of each head's queries and keys.
        first = np.arange(72) % 8 + 100 * (np.arange(72) >= 48) == 0
        weight, bias = (tf.cast(w, tf.float32) for w in block.attn.c_attn.weights)
        block.attn.c_attn.weights[0].assign(tf.where(first, 0.0, weight))
        block.attn.c_attn.weights[1].assign(tf.where(first, 260.0, bias))
    for ours, theirs in zip(exact.weights, half.weights, strict=True):
        ours.assign(tf.cast(theirs, tf.float32))
    return half, exact


def padded(side):
    ids, mask = np.full((len(TEXTS), WIDTH), 7), np.zeros((len(TEXTS), WIDTH), int)
    for row, text in enumerate(TEXTS):
        place = slice(WIDTH - len(text), WIDTH) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask


def logits_of(model, ids, mask, cached):
    """Run [B, T] as a whole; or four columns, then two, then one at a time."""
    past, ends = None, (WIDTH,)
    if cached:
        dtype = model.get_input_embeddings().compute_dtype
        past, ends = KVCache.create(model.config, len(ids), 12, dtype), (4, 6, 7, 8)
    logits = []
    for start, end in itertools.pairwise((0, *ends)):
        output = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=past)
        logits.append(tf.cast(output.logits, tf.float32))
        past = output.past_key_values
    return tf.concat(logits, axis=1).numpy()


@pytest.mark.parametrize(("policy", "flags"), CASES)
def test_every_way_to_attend(policy, flags):
    """As close to float32 as the type can be, and each padded row to the row alone."""
    half, exact = models_under(flags, policy)
    alone = [logits_of(half, text[None], np.ones((1, len(text)), int), False)[0] for text in TEXTS]
    exactly = [exact(text[None]).logits[0].numpy() for text in TEXTS]
    eps = EPS[policy.removeprefix("mixed_")]
    for side, cached in (("left", False), ("right", False), ("left", True)):
        ids, mask = padded(side)
        logits = logits_of(half, ids, mask, cached)
        assert np.isfinite(logits).all()
        for row, expected in enumerate(exactly):
            found, tolerance = logits[row, mask[row] == 1], 2 * eps * np.ptp(expected)
            np.testing.assert_allclose(found, alone[row], rtol=0, atol=tolerance)
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_training_with_upcast(policy):
    """Dropout of the attention weights, which are float32 then, and a head mask of the policy."""
    model = tiny_model(dtype=policy, reorder_and_upcast_attn=True)
    ids, mask = padded("left")
    with tf.GradientTape() as tape:
        output = model(
            ids, attention_mask=mask, labels=ids, head_mask=np.ones(3, "float32"), training=True
        )
    gradients = tape.gradient(output.loss, model.trainable_variables)
    assert all(np.isfinite(tf.cast(tf.convert_to_tensor(g), tf.float32)).all() for g in gradients)
    assert model.generate(ids, attention_mask=mask, max_new_tokens=2).shape == (2, WIDTH + 2)
