"""The loss of a language model without the logits of a whole batch.

Logits of GPT-2's vocabulary take 200 KB a token. A chunk of tokens at a time, they are computed,
compared with the targets and turned into gradients at once, so that none of them is kept for the
backward pass and no second copy is made.

N tokens, E n_embd, V vocab_size, C tokens of a chunk.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from gpt2x.models.checks import IGNORE_INDEX

# Tokens at a time: 50 MB of float32 logits for GPT-2's vocabulary.
_CHUNK = 256

Gradients = tuple[Array, Array]


@jax.custom_vjp
def linear_cross_entropy(hidden: Array, weight: Array, targets: Array) -> Array:
    """Return the mean cross-entropy of targets under the logits ``hidden @ weight.T``, float32.

    hidden: [N, E]; weight: [V, E]; targets: int [N], of which `IGNORE_INDEX` is left out. NaN
    without any target.
    """
    step = partial(_losses, weight)
    _, losses = jax.lax.scan(
        lambda carry, chunk: (carry, step(*chunk)[0]), 0, _chunks(hidden, targets)
    )
    return losses.sum() / (targets != IGNORE_INDEX).sum()


def _forward(hidden: Array, weight: Array, targets: Array) -> tuple[Array, Gradients]:
    """Compute the gradients along with the loss, while a chunk's logits are there."""
    count = (targets != IGNORE_INDEX).sum()

    def step(to_weight: Array, chunk: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        some, wanted = chunk  # [C, E], [C]
        loss, scores, totals, index = _losses(weight, some, wanted)
        # The gradient of the mean: softmax minus one at the target, over the count.
        gradient = jnp.exp(scores - totals[:, None])  # [C, V]
        gradient -= jax.nn.one_hot(index, scores.shape[1], dtype=gradient.dtype)
        gradient *= ((wanted != IGNORE_INDEX) / count)[:, None]
        gradient = gradient.astype(some.dtype)
        to_hidden = gradient @ weight.astype(some.dtype)  # [C, E]
        to_weight += jax.lax.dot(gradient.T, some, preferred_element_type=to_weight.dtype)
        return to_weight, (loss, to_hidden)

    to_weight, (losses, to_hidden) = jax.lax.scan(
        step, jnp.zeros_like(weight), _chunks(hidden, targets)
    )
    to_hidden = to_hidden.reshape(-1, hidden.shape[1])[: len(hidden)]
    return losses.sum() / count, (to_hidden, to_weight)


def _backward(gradients: Gradients, grad: Array) -> tuple[Array, Array, None]:
    hidden, weight = gradients
    return (hidden * grad).astype(hidden.dtype), (weight * grad).astype(weight.dtype), None


linear_cross_entropy.defvjp(_forward, _backward)


def _losses(weight: Array, some: Array, wanted: Array) -> tuple[Array, Array, Array, Array]:
    """Return the sum of the losses of a chunk, its logits [C, V], their logsumexp, the targets."""
    scores = jax.lax.dot(some, weight.astype(some.dtype).T, preferred_element_type=jnp.float32)
    kept = wanted != IGNORE_INDEX
    index = jnp.where(kept, wanted, 0)
    totals = jax.nn.logsumexp(scores, axis=-1)
    losses = totals - jnp.take_along_axis(scores, index[:, None], axis=-1)[:, 0]
    return jnp.where(kept, losses, 0).sum(), scores, totals, index


def _chunks(hidden: Array, targets: Array) -> tuple[Array, Array]:
    """Divide the tokens: [N, E] and [N] -> [chunks, C, E] and [chunks, C], the last one filled."""
    size = min(_CHUNK, len(hidden))
    missing = -len(hidden) % size
    hidden = jnp.pad(hidden, ((0, missing), (0, 0)))
    targets = jnp.pad(targets, (0, missing), constant_values=IGNORE_INDEX)
    return hidden.reshape(-1, size, hidden.shape[1]), targets.reshape(-1, size)
