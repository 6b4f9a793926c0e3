"""`MirroredStrategy` over two logical CPUs trains as one device does, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import contextlib, json, sys
import keras, numpy as np, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from support.tf_models import random_ids, tiny_model

ids = random_ids(9, 6)  # the last batch holds one row: one replica's is empty
labels = ids.copy()
labels[0, :4] = -100  # so that the replicas' batches hold different numbers of labels
labels[5] = -100

def train(strategy, x, y=None):
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = tiny_model(n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        model.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"])
    losses = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    if y is None:  # evaluation takes labels from the same places
        losses["evaluated"] = model.evaluate(x, batch_size=4, verbose=0)
    return losses

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inside = {"input_ids": ids, "labels": labels}
print(json.dumps([train(None, inside), train(mirrored, inside), train(mirrored, ids, labels)]))
"""


@pytest.fixture(scope="module")
def runs():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("where", [1, 2], ids=["labels in the inputs", "labels as y"])
def test_two_replicas_give_the_losses_of_one(where, runs):
    one, two = runs[0], runs[where]
    assert {"loss", "accuracy"} <= set(two)
    for name, values in two.items():
        np.testing.assert_allclose(values, one[name], rtol=1e-5, err_msg=name)
    assert one["loss"][1] < one["loss"][0]
