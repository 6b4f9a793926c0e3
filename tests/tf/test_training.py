"""TensorFlow's training engine."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf.fused_loss import linear_cross_entropy
from support.contract.training import TrainingContract


class TestTraining(TrainingContract):
    backend = "tf"

    def check_weights(self, engine, wte):
        found = engine.model.transformer.wte.embeddings.numpy()
        np.testing.assert_allclose(found, wte, rtol=1e-4, atol=1e-5)

    def losses(self, engine, *args, **options):
        """Make steps, which share one trace whatever their numbers are."""
        found = super().losses(engine, *args, **options)
        for function in (engine._add_gradients, engine._update):
            assert function.experimental_get_tracing_count() == 1
        return found

    @pytest.mark.parametrize("task", [{"type": "ps", "index": 0}, {"type": "worker", "index": 1}])
    def test_a_cluster_with_other_tasks_is_refused(self, task, monkeypatch):
        cluster = '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "%s", "index": %d}}'
        monkeypatch.setenv("TF_CONFIG", cluster % (task["type"], task["index"]))
        with pytest.raises(InvalidInputError, match="TF_CONFIG must name a cluster of a chief"):
            self.engine()


@pytest.mark.parametrize("count", [1, 255, 600])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_the_fused_loss_is_that_of_all_logits(count, dtype):
    rng = np.random.default_rng(0)
    hidden = tf.cast(tf.constant(rng.standard_normal((count, 8))), dtype)
    weight = tf.constant(rng.standard_normal((50, 8)), tf.float32)
    targets = rng.integers(0, 50, count)
    kept = np.arange(count) % 3 != 1

    def whole(hidden: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(hidden, tf.cast(weight, dtype), transpose_b=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            targets, tf.cast(logits, tf.float32)
        )
        return tf.reduce_mean(losses[kept])

    def fused(hidden: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        return linear_cross_entropy(hidden, weight, tf.constant(np.where(kept, targets, -100)))

    found = []
    for loss in (whole, fused):
        with tf.GradientTape() as tape:
            tape.watch([hidden, weight])
            value = loss(hidden, weight) * 3
        gradients = tape.gradient(value, [hidden, weight])
        found.append([np.asarray(x, np.float32) for x in (value, *gradients)])
    close = 1e-5 if dtype == tf.float32 else 2e-2
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=close, atol=close)
    evaluated = linear_cross_entropy(
        hidden,
        weight,
        tf.constant(np.where(kept, targets, -100)),
        needs_hidden=False,
        needs_weight=False,
    )
    assert float(evaluated) * 3 == pytest.approx(float(found[1][0]), rel=1e-6)


def test_the_logits_of_a_whole_batch_are_never_there(monkeypatch):
    shapes, matmul = [], tf.matmul

    def watched(*args, **kwargs):
        found = matmul(*args, **kwargs)
        shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(tf, "matmul", watched)  # logits are a product, and so are gradients
    hidden, weight = tf.ones([600, 8]), tf.ones([50, 8])
    with tf.GradientTape() as tape:
        tape.watch([hidden, weight])
        loss = linear_cross_entropy(hidden, weight, tf.zeros([600], tf.int32))
    tape.gradient(loss, [hidden, weight])
    assert (256, 50) in shapes
    assert max(np.prod(shape) for shape in shapes) < 300 * 50
