"""Dropout by counter-based bits in TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt2x.tf.dropout import Dropout, DropoutSeeds, kept
from gpt2x.train.dropout import keys
from gpt2x.train.engine import MicroBatch
from support.dropout import mask
from support.tf_models import tiny_model

SEED, SITE = 2**50 + 3, (1, 0, 1)


def state(first_row: int = 0) -> tf.Tensor:
    return tf.constant(keys(SEED, [SITE])[0].astype(np.int64) + [0, first_row << 32])


# With elements whose numbers have more than 32 bits.
@pytest.mark.parametrize(("shape", "first_row"), [((3, 5, 7), 4), ((4, 3), 2**30 * 3 // 2)])
def test_masks_are_those_of_the_core(shape, first_row):
    found = kept(state(first_row), tf.zeros(shape), 0.3).numpy()
    np.testing.assert_array_equal(found, mask(shape, 0.3, SEED, SITE, first_row))


def test_a_layer_drops_by_its_key_in_training_alone():
    layer, x = Dropout(0.3), tf.reshape(tf.range(1.0, 25), (2, 3, 4))
    layer.is_keyed = True
    mapping = [(layer.seed_generator.state, state())]
    with keras.StatelessScope(state_mapping=mapping), tf.GradientTape() as tape:
        tape.watch(x)
        out = layer(x, training=True)
    expected = mask((2, 3, 4), 0.3, SEED, SITE) / np.float32(1 - 0.3)
    np.testing.assert_allclose(out, x * expected, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(out, x), expected, rtol=1e-6)
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_devices_and_processes_number_the_rows_of_all():
    batch = MicroBatch({"labels": np.zeros((5, 2))}, 1.0, SEED, first_row=10)
    seeds = DropoutSeeds(tiny_model(), first=2, devices=2, same=True)
    states = seeds(batch).numpy()
    places = [(layer, *part) for layer in range(2) for part in ((0, 0), (0, 1), (2,))] + [(2,)]
    assert states.shape == (2, len(places), 2)
    words = states & 0xFFFFFFFF
    np.testing.assert_array_equal(words[0], words[1])
    assert {*map(tuple, words[0])} == {*map(tuple, keys(SEED, places).tolist())}
    assert (states[..., 1] >> 32).tolist() == [[10] * len(places), [13] * len(places)]
