"""The loss of a language model without the logits of a whole batch.

Logits of GPT-2's vocabulary take 200 KB a token. A chunk of tokens at a time, they are computed,
compared with the targets and turned into gradients at once, so that none of them is kept for the
backward pass and no second copy is made.

N tokens, E n_embd, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.tf.ops import shape_of

# Tokens at a time: 50 MB of float32 logits for GPT-2's vocabulary.
_CHUNK = 256


def linear_cross_entropy(
    hidden: tf.Tensor,
    weight: tf.Tensor,
    targets: tf.Tensor,
    *,
    count: tf.Tensor | None = None,
    needs_hidden: bool = True,
    needs_weight: bool = True,
) -> tf.Tensor:
    """Return the mean cross-entropy of targets under the logits ``hidden @ weight.T``, float32.

    hidden: [N, E]; weight: [V, E]; targets: int [N], of which `IGNORE_INDEX` is left out. `count`
    is what the sum is divided by, if not the number of targets. `needs_hidden` and `needs_weight`
    say which gradients will be asked for. NaN without any target.
    """
    if count is None:
        count = tf.reduce_sum(tf.cast(targets != IGNORE_INDEX, tf.float32))

    @tf.custom_gradient
    def loss(hidden: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        found = _forward(hidden, weight, targets, count, needs_hidden, needs_weight)

        def backward(grad: tf.Tensor) -> list[tf.Tensor | None]:
            gradients = found.to_hidden, found.to_weight
            return [None if g is None else g * tf.cast(grad, g.dtype) for g in gradients]

        return found.loss, backward

    return loss(hidden, weight)


class _Computed(NamedTuple):
    """The gradients along with the loss, computed while a chunk's logits were there."""

    loss: tf.Tensor
    to_hidden: tf.Tensor | None  # [N, E]
    to_weight: tf.Tensor | None  # [V, E]


def _forward(
    hidden: tf.Tensor,
    weight: tf.Tensor,
    targets: tf.Tensor,
    count: tf.Tensor,
    needs_hidden: bool,
    needs_weight: bool,
) -> _Computed:
    computed = tf.cast(weight, hidden.dtype)  # [V, E]
    N, E = shape_of(hidden)
    size = min(_CHUNK, N) if isinstance(N, int) else _CHUNK
    chunks = -(-N // size)
    left = chunks * size - N
    rows = tf.reshape(tf.pad(hidden, [[0, left], [0, 0]]), [chunks, size, E])
    labels = tf.pad(tf.cast(targets, tf.int32), [[0, left]], constant_values=IGNORE_INDEX)
    labels = tf.reshape(labels, [chunks, size])

    def one(
        number: tf.Tensor, loss: tf.Tensor, to_hidden: tf.TensorArray, to_weight: tf.Tensor
    ) -> tuple[Any, ...]:
        some, target = rows[number], labels[number]  # [n, E], [n]
        scores = tf.cast(tf.matmul(some, computed, transpose_b=True), tf.float32)  # [n, V]
        kept = target != IGNORE_INDEX
        index = tf.where(kept, target, 0)
        totals = tf.reduce_logsumexp(scores, axis=-1)
        losses = totals - tf.gather(scores, index, batch_dims=1)
        loss += tf.reduce_sum(tf.where(kept, losses, 0.0))
        # The gradient of the mean: softmax minus one at the target, over the count.
        share = tf.cast(kept, tf.float32) / count
        gradient = tf.exp(scores - totals[:, None]) * share[:, None]
        at = tf.stack([tf.range(size), index], axis=1)
        gradient = tf.cast(tf.tensor_scatter_nd_sub(gradient, at, share), hidden.dtype)
        if needs_hidden:
            to_hidden = to_hidden.write(number, tf.matmul(gradient, computed))
        if needs_weight:
            wide = tf.cast(gradient, weight.dtype), tf.cast(some, weight.dtype)
            to_weight += tf.matmul(*wide, transpose_a=True)
        return number + 1, loss, to_hidden, to_weight

    state = (
        tf.constant(0),
        tf.zeros([]),
        tf.TensorArray(hidden.dtype, chunks, element_shape=[size, E]),
        tf.zeros_like(weight) if needs_weight else tf.zeros([]),
    )
    _, loss, to_hidden, to_weight = tf.while_loop(
        lambda number, *_: number < chunks, one, state, parallel_iterations=1
    )
    return _Computed(
        loss / count,
        tf.reshape(to_hidden.stack(), [-1, E])[:N] if needs_hidden else None,
        to_weight if needs_weight else None,
    )
