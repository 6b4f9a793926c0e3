"""The losses of the heads: predictions beside their labels, and which of them count."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from gpt2x.models.checks import IGNORE_INDEX


class Target(NamedTuple):
    """Predictions beside their labels.

    Attributes:
        logits: [..., classes], or [..., numbers] for a regression.
        labels: class ids [...], 0 where the label is ignored; or as `logits`.
        weights: float32, shaped as `losses`; 0 where the label is ignored, else 1.
        losses: float32, the loss of each prediction.
    """

    logits: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    losses: tf.Tensor

    def counted(self) -> tf.Tensor:
        """Return the losses, and 0 where the label is ignored.

        The gradient there is 0 whatever follows, also where the mean over nothing is NaN, as in
        PyTorch.
        """
        return tf.where(self.weights > 0, self.losses, 0.0)

    def loss(self) -> tf.Tensor:
        """Return the mean of the losses that count, a scalar; NaN if none does."""
        return tf.reduce_sum(self.counted()) / tf.reduce_sum(self.weights)

    def aligned(self, sample_weight: tf.Tensor) -> tf.Tensor:
        """Bring weights of rows, or of labels, to the shape of `losses`.

        Losses of next tokens have one column fewer than the labels: the first has no prediction.
        """
        while sample_weight.shape.rank < self.losses.shape.rank:
            sample_weight = sample_weight[..., None]
        if self.losses.shape.rank > 1:
            sample_weight = sample_weight[..., -tf.shape(self.losses)[-1] :]
        return tf.broadcast_to(sample_weight, tf.shape(self.losses))

    def masked_logits(self) -> tf.Tensor:
        """Return the logits with a mask, by which metrics ignore what the loss ignores."""
        logits = tf.identity(self.logits)
        # This is how Keras sends a mask along with a tensor. Metrics take a mask in no other way,
        # unless it is a sample weight.
        logits._keras_mask = tf.cast(self.weights, tf.bool)
        return logits


def classes(
    logits: tf.Tensor, labels: tf.Tensor, ignore_index: int | tf.Tensor = IGNORE_INDEX
) -> Target:
    """Compare logits [..., classes] with class ids [...]; labels of `ignore_index` are ignored."""
    labels = tf.cast(labels, tf.int32)
    counts = labels != ignore_index
    labels = tf.where(counts, labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return Target(logits, labels, tf.cast(counts, tf.float32), losses)


def next_tokens(logits: tf.Tensor, labels: tf.Tensor, ignore_index: int = IGNORE_INDEX) -> Target:
    """Compare logits [..., T, V] with the labels [..., T], each with that of the next token."""
    return classes(logits[..., :-1, :], labels[..., 1:], ignore_index)


def choices(mc_logits: tf.Tensor, mc_labels: tf.Tensor) -> Target:
    """Compare scores [B, C] with the right choices, [B] or [B, 1]."""
    rows = tf.reshape(mc_logits, [-1, tf.shape(mc_logits)[-1]])
    return classes(rows, tf.reshape(mc_labels, [-1]))


def positions(scores: tf.Tensor, where: tf.Tensor) -> Target:
    """Compare scores [B, T] with positions [B] or [B, 1]; those behind the text are ignored."""
    T = tf.shape(scores)[1]
    where = tf.clip_by_value(tf.reshape(tf.cast(where, tf.int32), [-1]), 0, T)
    return classes(scores, where, ignore_index=T)


def numbers(logits: tf.Tensor, labels: tf.Tensor, loss: Callable[..., tf.Tensor]) -> Target:
    """Compare logits [B, labels] with as many numbers, by `loss(labels, logits)`."""
    logits = tf.cast(logits, tf.float32)
    labels = tf.reshape(tf.cast(labels, tf.float32), tf.shape(logits))
    return Target(logits, labels, tf.ones_like(logits), loss(labels, logits))
