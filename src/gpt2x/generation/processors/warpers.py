"""Processors of sampling: temperature, and the filters that cut the tail of the distribution.

Each works on any set of candidates [R, C] as well as on the whole vocabulary, because none of them
depends on the token id of a column. No filter sorts: a threshold comes from `top_k`, from comparing
all pairs of a few candidates, or from bisection over the bits of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, Scalar, as_column
from gpt2x.generation.processors.base import (
    NEG_INF,
    BuiltInProcessor,
    Context,
    Static,
    Values,
    as_float,
    check_number,
)

# Up to this many candidates, comparing all pairs is cheaper than 32 passes of bisection.
PAIRWISE_LIMIT = 256


class Filter(BuiltInProcessor):
    """Base of the filters of sampling.

    filter_value: the score of tokens that are removed.
    min_tokens_to_keep: number of best tokens that are never removed.
    """

    reads_text = False

    def __init__(self, filter_value: float, min_tokens_to_keep: int) -> None:
        check_number(
            "min_tokens_to_keep", min_tokens_to_keep, "an integer above 0", lambda n: n > 0, True
        )
        self.filter_value = filter_value
        self.min_tokens_to_keep = min_tokens_to_keep

    @property
    def static(self) -> Static:
        return (self.min_tokens_to_keep, self.filter_value)


class TemperatureLogitsWarper(BuiltInProcessor):
    """Divide the scores by the temperature: below 1 sharpens, above 1 flattens."""

    reads_text = False

    def __init__(self, temperature: float) -> None:
        check_number(
            "temperature",
            temperature,
            "a number above 0 (for greedy decoding set `do_sample=False`)",
            lambda value: value > 0,
        )
        self.temperature = temperature

    @property
    def values(self) -> Values:
        return {"temperature": as_float(self.temperature)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return scores / values["temperature"]


class TopKLogitsWarper(Filter):
    """Keep the k most likely tokens, and those that tie with the k-th (arXiv:1805.04833)."""

    def __init__(
        self, top_k: int, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InvalidInputError(f"`top_k` must be an integer above 0, but is {top_k!r}.")
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_k = max(top_k, min_tokens_to_keep)

    @property
    def width(self) -> int:
        """The number of candidates that later steps need, if they need only the kept ones."""
        return candidate_width(self.top_k)

    @property
    def static(self) -> Static:
        return (self.width, self.filter_value)

    @property
    def values(self) -> Values:
        return {"top_k": self.top_k}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        width, filter_value = static
        best = _best(ops, scores, width)
        return ops.where(scores < kth_best(ops, best, values["top_k"]), filter_value, scores)


class TopPLogitsWarper(Filter):
    """Keep the smallest set of the most likely tokens with a total probability of at least p
    (nucleus sampling, arXiv:1904.09751). Tokens of equal probability stay or go together.
    """

    def __init__(
        self, top_p: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("top_p", top_p, "a number from 0 to 1", lambda value: 0 <= value <= 1)
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_p = as_float(top_p)

    @property
    def values(self) -> Values:
        return {"cut": 1.0 - as_float(self.top_p)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        probabilities = ops.exp(ops.log_softmax(scores))
        kept = without_tail(ops, scores, probabilities, values["cut"])
        return _keep(ops, scores, scores, kept, static)


class MinPLogitsWarper(Filter):
    """Keep the tokens with at least `min_p` times the probability of the likeliest
    (arXiv:2407.01082).
    """

    def __init__(
        self, min_p: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("min_p", min_p, "a number from 0 to 1", lambda value: 0 <= value <= 1)
        super().__init__(filter_value, min_tokens_to_keep)
        self.min_p = min_p

    @property
    def values(self) -> Values:
        return {"min_p": as_float(self.min_p)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        relative = ops.exp(scores - ops.max(scores, axis=-1)[:, None])  # probability / largest
        return _keep(ops, scores, scores, relative >= values["min_p"], static)


class TypicalLogitsWarper(Filter):
    """Keep the tokens whose surprise is nearest to the expected one, up to a total probability of
    `mass` (locally typical sampling, arXiv:2202.00666).
    """

    def __init__(
        self, mass: float = 0.9, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("typical_p", mass, "a number between 0 and 1", lambda value: 0 < value < 1)
        super().__init__(filter_value, min_tokens_to_keep)
        self.mass = mass

    @property
    def values(self) -> Values:
        return {"typical_p": self.mass}

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


class EpsilonLogitsWarper(Filter):
    """Keep the tokens with a probability of at least epsilon (arXiv:2210.15191)."""

    def __init__(
        self, epsilon: float, filter_value: float = NEG_INF, min_tokens_to_keep: int = 1
    ) -> None:
        check_number("epsilon_cutoff", epsilon, "a number between 0 and 1", lambda e: 0 < e < 1)
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = epsilon

    @property
    def values(self) -> Values:
        return {"epsilon": self.epsilon}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        probabilities = ops.exp(ops.log_softmax(scores))
        return _keep(ops, scores, scores, probabilities >= values["epsilon"], static)


class EtaLogitsWarper(Filter):
    """Keep the tokens with a probability of at least
    ``eta = min(epsilon, sqrt(epsilon) * exp(-entropy))`` (arXiv:2210.15191).

    device: has no effect; transformers has it.
    """

    def __init__(
        self,
        epsilon: float,
        filter_value: float = NEG_INF,
        min_tokens_to_keep: int = 1,
        device: Any = None,
    ) -> None:
        check_number("eta_cutoff", epsilon, "a number between 0 and 1", lambda e: 0 < e < 1)
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = epsilon

    @property
    def values(self) -> Values:
        return {"epsilon": self.epsilon}

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
    """Return how many candidates to keep for `top_k`: twice as many, for ties, rounded up to a
    power of two so that few different widths are compiled.
    """
    return max(64, 1 << (2 * top_k - 1).bit_length())


def kth_best(ops: Ops, best: Array, k: int | Scalar | Array) -> Array:
    """Return the k-th column of descending scores [R, W], or the last if k > W: float [R, 1].

    `k` is one for all rows, or int [R, 1].
    """
    rows, width = ops.shape(best)
    column = ops.full((rows, 1), 0, "int") + as_column(ops, k)
    return ops.take_along(best, ops.minimum(column, width) - 1)


def leading_mass(ops: Ops, order: Array, weights: Array, mass: float | Scalar | Array) -> Array:
    """Return the first columns in descending `order` whose weights add up to `mass`.

    A column is among them if the columns strictly before it weigh less than `mass`, one for all
    rows or [R, 1]. order, weights: float [R, C] (weights >= 0) -> bool [R, C].
    """
    if _at_most(ops.shape(order)[1], PAIRWISE_LIMIT):
        precedes = order[:, None, :] > order[:, :, None]  # [R, C, C]: column j before column i
        before = ops.sum(ops.where(precedes, weights[:, None, :], 0.0), axis=-1)
        return before < mass

    def enough(leads: Array) -> Array:
        return ops.sum(ops.where(leads, weights, 0.0), axis=-1)[:, None] >= mass

    return _bisect(ops, order, enough)


def without_tail(ops: Ops, order: Array, weights: Array, mass: float | Scalar | Array) -> Array:
    """Return the columns that remain when the last ones in descending `order` are removed, as many
    as weigh at most `mass` in all, one for all rows or [R, 1]: bool [R, C].

    Up to rounding this is `leading_mass` of the rest, but small weights are best added alone.
    order, weights: float [R, C] (weights >= 0).
    """
    if _at_most(ops.shape(order)[1], PAIRWISE_LIMIT):
        follows = order[:, None, :] <= order[:, :, None]  # [R, C, C]: column j not before column i
        tail = ops.sum(ops.where(follows, weights[:, None, :], 0.0), axis=-1)
        return tail > mass

    def enough(leads: Array) -> Array:
        return ops.sum(ops.where(leads, 0.0, weights), axis=-1)[:, None] <= mass

    return _bisect(ops, order, enough)


def _best(ops: Ops, order: Array, count: int) -> Array:
    """Return the `count` largest of each row, descending, or all of fewer columns."""
    columns = ops.shape(order)[1]
    if isinstance(columns, int):
        return ops.top_k(order, min(count, columns))[0]
    # The number of columns is known only when the graph runs.
    return ops.top_k(order, ops.minimum(columns, count))[0]


def _at_most(size: int | Scalar, limit: int) -> bool:
    return isinstance(size, int) and size <= limit


def highest(ops: Ops, order: Array, k: Array) -> Array:
    """Return the k highest columns of each row, and those that tie with the k-th.

    order: float [R, C]; k: int [R, 1], at least 1 -> bool [R, C].
    """

    def enough(leads: Array) -> Array:
        return ops.sum(ops.cast(leads, "int"), axis=-1)[:, None] >= k

    return _bisect(ops, order, enough)


def _bisect(ops: Ops, order: Array, enough: Callable[[Array], Array]) -> Array:
    """Keep the columns at or above each row's highest threshold that leaves enough of them.

    The threshold is found one bit at a time; enough: bool [R, C] -> bool [R, 1].
    """
    bits = ops.float_bits(order)
    keys = ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats

    def leads(threshold: Array) -> Array:
        return keys >= threshold

    lowest = ops.max(keys, axis=-1)[:, None] * 0 - 0x7FFFFFFF - 1  # [R, 1], int32
    threshold = ops.where(enough(leads(lowest * 0)), lowest * 0, lowest)  # decides the sign

    def next_bit(state: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        threshold, bit = state
        raised = threshold + bit
        return ops.where(enough(leads(raised)), raised, threshold), bit // 2

    first_bit = ops.scalar(1 << 30, "int")
    threshold, _ = ops.while_loop(lambda state: state[1] > 0, next_bit, (threshold, first_bit))
    return leads(threshold)


def _keep(ops: Ops, scores: Array, order: Array, kept: Array, static: Static) -> Array:
    """Mask columns that are not kept, except the `min_tokens_to_keep` highest in `order`."""
    min_tokens_to_keep, filter_value = static
    if min_tokens_to_keep > 1:
        last = _best(ops, order, min_tokens_to_keep)[:, -1:]
    else:
        last = ops.max(order, axis=-1)[:, None]
    return ops.where(kept | (order >= last), scores, filter_value)
