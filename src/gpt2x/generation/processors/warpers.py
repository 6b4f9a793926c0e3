"""Processors of sampling: temperature, and the filters that cut the tail of the distribution.

Each works on any set of candidates [R, C] as well as on the whole vocabulary, because none of them
looks at which token a column stands for. No filter sorts: a threshold comes from `top_k`, from
comparing all pairs of a few candidates, or from bisection over the bits of the scores.
"""

from __future__ import annotations

from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.processors.base import (
    NEG_INF,
    BuiltInProcessor,
    Context,
    Static,
    Values,
    check_number,
)

# Up to this many candidates, comparing all pairs is cheaper than 32 passes of bisection.
PAIRWISE_LIMIT = 256
SMALLEST_MASS = 1e-30


class TemperatureLogitsWarper(BuiltInProcessor):
    """Divide the scores by the temperature: below 1 sharpens, above 1 flattens."""

    def __init__(self, temperature: float) -> None:
        check_number(
            "temperature",
            temperature,
            "a number above 0 (for greedy decoding set `do_sample=False`)",
            lambda value: value > 0,
        )
        self.values = {
            "temperature": float(temperature) if isinstance(temperature, int) else temperature
        }

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return scores / values["temperature"]


class TopKLogitsWarper(BuiltInProcessor):
    """Keep the k most likely tokens, and what ties with the last of them (arXiv:1805.04833)."""

    def __init__(
        self, top_k: int, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InvalidInputError(f"`top_k` must be an integer above 0, but is {top_k!r}.")
        top_k = max(top_k, min_tokens_to_keep)
        self.static = (candidate_width(top_k), filter_value)
        self.values = {"top_k": top_k}

    @property
    def width(self) -> int:
        """How many candidates to carry on, where only the kept ones matter."""
        return self.static[0]

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        width, filter_value = static
        best, _ = ops.top_k(scores, min(width, ops.shape(scores)[1]))
        return ops.where(scores < kth_best(ops, best, values["top_k"]), filter_value, scores)


class TopPLogitsWarper(BuiltInProcessor):
    """Keep the smallest set of the most likely tokens with a total probability of at least p
    (nucleus sampling, arXiv:1904.09751). Tokens of equal probability stay or go together.
    """

    def __init__(
        self, top_p: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("top_p", top_p, "a number from 0 to 1", lambda value: 0 <= value <= 1)
        self.static = (min_tokens_to_keep, filter_value)
        self.values = {"top_p": float(top_p) if isinstance(top_p, int) else top_p}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        probabilities = ops.exp(ops.log_softmax(scores))
        kept = leading_mass(ops, scores, probabilities, values["top_p"])
        return _keep(ops, scores, scores, kept, static)


class MinPLogitsWarper(BuiltInProcessor):
    """Keep the tokens with at least `min_p` times the probability of the likeliest
    (arXiv:2407.01082).
    """

    def __init__(
        self, min_p: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("min_p", min_p, "a number from 0 to 1", lambda value: 0 <= value <= 1)
        self.static = (min_tokens_to_keep, filter_value)
        self.values = {"min_p": float(min_p) if isinstance(min_p, int) else min_p}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        relative = ops.exp(scores - ops.max(scores, axis=-1)[:, None])  # probability / largest
        return _keep(ops, scores, scores, relative >= values["min_p"], static)


class TypicalLogitsWarper(BuiltInProcessor):
    """Keep the tokens whose surprise is nearest to the expected one, up to a total probability of
    `mass` (locally typical sampling, arXiv:2202.00666).
    """

    def __init__(
        self, mass: float = 0.9, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("typical_p", mass, "a number between 0 and 1", lambda value: 0 < value < 1)
        self.static = (min_tokens_to_keep, filter_value)
        self.values = {"typical_p": mass}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        log_probabilities = ops.log_softmax(scores)
        probabilities = ops.exp(log_probabilities)
        possible = log_probabilities > NEG_INF
        surprise = ops.where(possible, -log_probabilities, 0.0)
        entropy = ops.sum(surprise * probabilities, axis=-1)[:, None]
        closeness = ops.where(possible, -abs(surprise - entropy), NEG_INF)
        kept = leading_mass(ops, closeness, probabilities, values["typical_p"])
        return _keep(ops, scores, closeness, kept, static)


class EpsilonLogitsWarper(BuiltInProcessor):
    """Keep the tokens with a probability of at least epsilon (arXiv:2210.15191)."""

    def __init__(
        self, epsilon: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("epsilon_cutoff", epsilon, "a number between 0 and 1", lambda e: 0 < e < 1)
        self.static = (min_tokens_to_keep, filter_value)
        self.values = {"epsilon": epsilon}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        probabilities = ops.exp(ops.log_softmax(scores))
        return _keep(ops, scores, scores, probabilities >= values["epsilon"], static)


class EtaLogitsWarper(BuiltInProcessor):
    """Keep the tokens with a probability of at least
    ``eta = min(epsilon, sqrt(epsilon) * exp(-entropy))`` (arXiv:2210.15191).

    device: changes nothing; transformers has it.
    """

    def __init__(
        self,
        epsilon: float,
        filter_value: float = NEG_INF,
        min_tokens_to_keep: int = 1,
        device: Any = None,
    ) -> None:
        check_number("eta_cutoff", epsilon, "a number between 0 and 1", lambda e: 0 < e < 1)
        self.static = (min_tokens_to_keep, filter_value)
        self.values = {"epsilon": epsilon}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        log_probabilities = ops.log_softmax(scores)
        probabilities = ops.exp(log_probabilities)
        finite = ops.where(log_probabilities > NEG_INF, log_probabilities, 0.0)
        entropy = -ops.sum(probabilities * finite, axis=-1)[:, None]
        scaled = ops.exp(-entropy) * values["epsilon"] ** 0.5
        eta = ops.minimum(scaled, values["epsilon"])
        return _keep(ops, scores, scores, probabilities >= eta, static)


def candidate_width(top_k: int) -> int:
    """Return how many candidates to carry for `top_k`: room for as many ties, rounded up to a
    power of two so that few different widths are ever compiled.
    """
    return max(64, 1 << (2 * top_k - 1).bit_length())


def kth_best(ops: Ops, best: Array, k: int | Scalar) -> Array:
    """Return the k-th column of descending scores [R, W], or the last if k > W: float [R, 1]."""
    rows, width = ops.shape(best)
    column = ops.minimum(ops.full((rows, 1), k, "int"), width) - 1
    return ops.take_along(best, column)


def leading_mass(ops: Ops, order: Array, weights: Array, mass: float | Scalar) -> Array:
    """Return which columns lead, in descending `order`, until their weights add up to `mass`.

    A column is kept if the columns strictly before it weigh less than `mass`.
    order, weights: float [R, C] (weights >= 0) -> bool [R, C].
    """
    mass = ops.maximum(ops.full((1, 1), mass, "float"), SMALLEST_MASS)
    if _at_most(ops.shape(order)[1], PAIRWISE_LIMIT):
        precedes = order[:, None, :] > order[:, :, None]  # [R, C, C]: column j before column i
        before = ops.sum(ops.where(precedes, weights[:, None, :], 0.0), axis=-1)
        return before < mass
    return _bisect(ops, order, weights, mass[:, 0])


def _at_most(size: int | Scalar, limit: int) -> bool:
    return isinstance(size, int) and size <= limit


def _bisect(ops: Ops, order: Array, weights: Array, mass: Array) -> Array:
    """Find each row's highest threshold that keeps enough weight, one bit of it at a time."""
    bits = ops.float_bits(order)
    keys = ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats

    def enough(threshold: Array) -> Array:
        kept = ops.where(keys >= threshold[:, None], weights, 0.0)
        return ops.sum(kept, axis=-1) >= mass

    lowest = ops.max(keys, axis=-1) * 0 - 0x7FFFFFFF - 1  # [R], int32
    threshold = ops.where(enough(lowest * 0), lowest * 0, lowest)  # decides the sign

    def next_bit(state: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        threshold, bit = state
        raised = threshold + bit
        return ops.where(enough(raised), raised, threshold), bit // 2

    first_bit = ops.scalar(1 << 30, "int")
    threshold, _ = ops.while_loop(lambda state: state[1] > 0, next_bit, (threshold, first_bit))
    return keys >= threshold[:, None]


def _keep(ops: Ops, scores: Array, order: Array, kept: Array, static: Static) -> Array:
    """Mask what is not kept, except the `min_tokens_to_keep` columns highest in `order`."""
    min_tokens_to_keep, filter_value = static
    if min_tokens_to_keep > 1:
        last = ops.top_k(order, min_tokens_to_keep)[0][:, -1:]
    else:
        last = ops.max(order, axis=-1)[:, None]
    return ops.where(kept | (order >= last), scores, filter_value)
