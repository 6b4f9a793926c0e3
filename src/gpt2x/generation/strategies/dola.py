"""DoLa: tokens that the last layer prefers more than an earlier layer does (arXiv:2309.03883).

Each row's text is contrasted with the earlier layer that differs most from the last one there.

R rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors.base import NEG_INF
from gpt2x.generation.strategies.base import Needs, Outputs
from gpt2x.generation.strategies.rows import Greedy, Sample

# Tokens of less than this part of the largest probability are never chosen.
_RELATIVE_TOP = 0.1
# Stands in for probabilities of 0, whose logarithm is multiplied by 0.
_TINY = 1e-38


@dataclass(frozen=True, kw_only=True)
class DoLaGreedy(Greedy):
    """Take the token of the largest contrast between the last layer and an earlier one.

    layers: those to choose the earlier one from; layer i is read before its block, 0 being the
        embeddings.
    """

    layers: tuple[int, ...]

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs(layers=self.layers)

    def logits(self, ops: Ops, outputs: Outputs) -> Array:
        """Return the contrast of log-probabilities, -inf where the last layer's is small."""
        last = ops.log_softmax(outputs.logits)  # [R, V]
        early = ops.log_softmax(outputs.layer_logits)  # [R, layers, V]
        contrasted = self._most_different(ops, last, early)
        threshold = ops.max(last, axis=-1)[:, None] + math.log(_RELATIVE_TOP)
        return ops.where(last >= threshold, last - contrasted, NEG_INF)

    def _most_different(self, ops: Ops, last: Array, early: Array) -> Array:
        """Return the layer of the largest divergence from the last, for each row: [R, V]."""
        rows, layers, vocab_size = ops.shape(early)
        if len(self.layers) == 1:
            return early[:, 0]
        chosen = ops.argmax(_divergence(ops, last[:, None], early))  # [R]
        flat = ops.reshape(early, (rows * layers, vocab_size))
        return ops.take(flat, ops.arange(rows) * layers + chosen)


@dataclass(frozen=True, kw_only=True)
class DoLaSample(DoLaGreedy, Sample):
    """Draw from the softmax of that contrast; the options are those of both classes."""


def _divergence(ops: Ops, p: Array, q: Array) -> Array:
    """Return how far each pair differs, of log-probabilities [..., V]: [...].

    As transformers has it: the Kullback-Leibler divergences of their mean from both, where the
    Jensen-Shannon divergence has those of both from their mean.
    """
    mean = 0.5 * (ops.exp(p) + ops.exp(q))
    log_mean = ops.log(ops.maximum(mean, _TINY))
    from_p = ops.sum(mean * (log_mean - p), axis=-1)
    from_q = ops.sum(mean * (log_mean - q), axis=-1)
    return 0.5 * (from_p + from_q)


def dola_layers(wanted: Any, n_layer: int, is_tied: bool) -> tuple[int, ...]:
    """Return the layers that `dola_layers` stands for.

    Args:
        wanted: "low", "high", or a list of layers; those from `n_layer` on are left out.
        n_layer: layers of the model.
        is_tied: whether its output layer is the embedding, with which the first layers agree.

    Raises:
        InvalidInputError: if it is something else, or no layer is left.
    """
    if not isinstance(wanted, str):
        layers = _listed(wanted, n_layer)
    elif wanted == "low":
        start = {1: 0, 2: 1}.get(n_layer, 2) if is_tied else 0
        end = n_layer // 2 if n_layer <= 40 else 20
        layers = (start,) if start == n_layer // 2 else tuple(range(start, end, 2))
    elif wanted == "high":
        layers = tuple(range(n_layer // 2 if n_layer <= 40 else n_layer - 20, n_layer, 2))
    else:
        raise InvalidInputError(
            f"dola_layers must be 'low', 'high' or a list of layers; got {wanted!r}."
        )
    if not layers:
        raise InvalidInputError(
            f"dola_layers={wanted!r} names none of the layers before the last of this model, which "
            f"has {n_layer}; pass a list of layers from 0 to {n_layer - 1}."
        )
    return layers


def _listed(wanted: Any, n_layer: int) -> tuple[int, ...]:
    is_list = isinstance(wanted, Sequence)
    if not is_list or not all(type(layer) is int and layer >= 0 for layer in wanted):
        raise InvalidInputError(
            "dola_layers must be 'low', 'high' or a list of layers, integers of at least 0; got "
            f"{wanted!r}."
        )
    return tuple(layer for layer in wanted if layer < n_layer)
