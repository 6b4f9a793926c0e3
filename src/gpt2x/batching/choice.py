"""The next token of each text of a batch, each by its own options.

The arithmetic is that of `generate`: its processors, and the draw of its strategy `Sample`, on
values that each text has for itself. A value that switches something off changes no score, so that
the texts beside one in the batch never change its tokens.

R texts, L columns of the token buffer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2x.batching.options import TextOptions
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors import BuiltInProcessor, Context, Processors
from gpt2x.generation.processors.base import NEG_INF, Static, Values, token_counts
from gpt2x.generation.processors.history import RepetitionPenaltyLogitsProcessor
from gpt2x.generation.processors.warpers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    candidate_width,
    highest,
)
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import Sample, Settings

#: The most likeliest tokens whose probabilities are told.
LOGPROBS = 20

#: The largest `top_k` that is served by comparing a few candidates.
_NARROW = 64


class AddedBias(BuiltInProcessor):
    """Add a bias to the scores; values: bias float [R, V]."""

    reads_text = False

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return scores + values["bias"]


class NewTextPenalty(BuiltInProcessor):
    """Take `presence` from the scores of the tokens of the new text, and `frequency` as often as
    they occur in it; values: float [R, 1] each, and `start` int [R, 1], where the new text starts.
    """

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        columns = ops.arange(ops.shape(context.tokens)[1])[None, :]
        counted = context.filled(ops) & (columns >= values["start"])
        counts = token_counts(ops, context.tokens, counted, scores)
        present = ops.cast(counts > 0, "float")
        return scores - values["presence"] * present - values["frequency"] * counts


class TopK(BuiltInProcessor):
    """Keep the k likeliest of all tokens, and what ties with the k-th; values: k int [R, 1]."""

    reads_text = False

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return ops.where(highest(ops, scores, values["k"]), scores, NEG_INF)


class Variant(NamedTuple):
    """What shapes the computation; hashable. Each part is there if a text of the batch needs it.

    Attributes:
        samples: a text draws its tokens.
        width: the candidates that are enough for all texts that draw; 0 for the vocabulary.
        top_k: a text has fewer candidates than the vocabulary.
        top_p, min_p, typical_p: the other filters of sampling.
        edits: scores are changed by the text, or token by token.
    """

    samples: bool = False
    width: int = 0
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False
    typical_p: bool = False
    edits: bool = False

    @classmethod
    def of(cls, options: Sequence[TextOptions]) -> Variant:
        """Return the cheapest variant that serves all these texts."""
        drawn = [each for each in options if each.samples]
        is_narrow = bool(drawn) and all(0 < each.top_k <= _NARROW for each in drawn)
        return cls(
            samples=bool(drawn),
            width=candidate_width(_NARROW) if is_narrow else 0,
            top_k=any(each.top_k > 0 for each in drawn),
            top_p=any(each.top_p < 1 for each in drawn),
            min_p=any(each.min_p > 0 for each in drawn),
            typical_p=any(each.typical_p < 1 for each in drawn),
            edits=any(each.edits for each in options),
        )

    @property
    def rounded(self) -> Variant:
        """The variant for compilers: one of few, which serves these texts too."""
        if not self.samples:
            return self
        return self._replace(top_k=True, top_p=True, min_p=True, typical_p=self.typical_p)

    @property
    def kinds(self) -> tuple[list[type[BuiltInProcessor]], list[type[BuiltInProcessor]]]:
        """The processors in their order: those of the whole vocabulary, and those of candidates."""
        asked: list[tuple[bool, type[BuiltInProcessor]]] = [
            (self.edits, AddedBias),
            (self.edits, RepetitionPenaltyLogitsProcessor),
            (self.edits, NewTextPenalty),
            (self.samples, TemperatureLogitsWarper),
        ]
        filters: list[tuple[bool, type[BuiltInProcessor]]] = [
            (self.top_k and not self.width, TopK),
            (self.top_p, TopPLogitsWarper),
            (self.min_p, MinPLogitsWarper),
            (self.typical_p, TypicalLogitsWarper),
        ]
        return [kind for is_on, kind in asked if is_on], [kind for is_on, kind in filters if is_on]


class TextValues(NamedTuple):
    """What `choose` reads of the texts; a pytree of few arrays, since each is moved at every step.

    Attributes:
        tokens: int32 [R, L], the texts so far; L is 0 if nothing reads them.
        counts: int32 [R, 4]: the text's length, that of its prompt, top_k, and whether it is drawn.
        numbers: float32 [R, 7], in the order of `_NUMBERS`.
        keys: uint32 [R, 2], of the streams of random numbers.
        bias: float32 [R, V], or () if there are no edits.
    """

    tokens: Array
    counts: Array
    numbers: Array
    keys: Array
    bias: Any


_NUMBERS = (
    "temperature",
    "cut",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def _numbers(options: TextOptions) -> list[float]:
    """Return the values of `_NUMBERS`; one that switches something off changes no score."""
    values = {
        "temperature": options.temperature if options.samples else 1.0,
        "cut": 1.0 - options.top_p,
        # Rounded sums of probabilities may exceed 1.
        "typical_p": options.typical_p if options.typical_p < 1 else np.inf,
    }
    return [values[name] if name in values else getattr(options, name) for name in _NUMBERS]


class TextTable:
    """The texts of a batch with their options, as arrays of the host.

    Args:
        rows: R, the most texts.
        columns: L, the most tokens of a text.
        vocab_size: V.
    """

    def __init__(self, rows: int, columns: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._bias: list[np.ndarray] = [np.zeros(vocab_size, np.float32)] * rows  # of the options
        self._values = TextValues(
            tokens=np.zeros((rows, columns), np.int32),
            counts=np.zeros((rows, 4), np.int32),
            numbers=np.zeros((rows, len(_NUMBERS)), np.float32),
            keys=np.zeros((rows, 2), np.uint32),
            bias=np.zeros((rows, vocab_size), np.float32),
        )

    def put(self, row: int, prompt: Sequence[int], options: TextOptions) -> None:
        """Let a text begin in a row."""
        values = self._values
        values.tokens[row, : len(prompt)] = prompt
        top_k = min(options.top_k or self._vocab_size, self._vocab_size)
        values.counts[row] = len(prompt), len(prompt), top_k, options.samples
        values.numbers[row] = _numbers(options)
        stream = streams([(options.seed, options.stream)], 1)
        values.keys[row] = np.concatenate(stream.keys(NUMPY_OPS))
        self._bias[row] = np.zeros(self._vocab_size, np.float32)
        for token, bias in options.logit_bias.items():
            self._bias[row][token] = bias
        values.bias[row] = self._bias[row]

    def allow(self, row: int, allowed: np.ndarray) -> None:
        """Let only some tokens follow a text, bool [V]."""
        self._values.bias[row] = np.where(allowed, self._bias[row], NEG_INF)

    def append(self, row: int, token: int) -> None:
        """Add a token to a text."""
        length = self._values.counts[row, 0]
        self._values.tokens[row, length] = token
        self._values.counts[row, 0] = length + 1

    def swap(self, row: int, other: int) -> None:
        """Exchange two rows."""
        for array in self._values:
            array[[row, other]] = array[[other, row]]
        self._bias[row], self._bias[other] = self._bias[other], self._bias[row]

    def values(self, rows: slice, variant: Variant) -> TextValues:
        """Return what `choose` reads of some rows."""
        found = TextValues(*(array[rows] for array in self._values))
        return found if variant.edits else found._replace(tokens=found.tokens[:, :0], bias=())


class LogProbabilities(NamedTuple):
    """Natural logarithms of a token's probability, and of the likeliest tokens'.

    They are the model's, before temperature, filters and penalties.

    Attributes:
        chosen: of the token.
        likeliest: ids and logarithms of the likeliest tokens, descending.
    """

    chosen: float
    likeliest: list[tuple[int, float]]


def log_probabilities(ops: Ops, logits: Array, tokens: Array) -> tuple[Array, Array, Array]:
    """Return of each row the logarithms of its token's and of the likeliest tokens' probabilities.

    Args:
        ops: the framework's.
        logits: float32 [R, V].
        tokens: int [R].

    Returns:
        chosen float [R], likeliest float [R, K] and their ids int [R, K].
    """
    scores = ops.log_softmax(logits)
    likeliest, ids = ops.top_k(scores, min(LOGPROBS, ops.shape(scores)[1]))
    return ops.take_along(scores, tokens[:, None])[:, 0], likeliest, ids


def choose(ops: Ops, logits: Array, values: TextValues, variant: Variant) -> tuple[Array, Array]:
    """Return the next token of each text, int [R], and whether its logits are numbers, bool [R].

    Args:
        ops: the framework's.
        logits: float32 [R, V].
        values: of the texts, in arrays of the framework; keys are words.
        variant: of the computation, one that serves all of the texts.
    """
    is_sound = ops.all(logits == logits, axis=-1)
    length, start, top_k, is_drawn = (values.counts[:, i : i + 1] for i in range(4))
    strategy, settings = _sampling(values, variant, start, top_k)
    real = ops.full(ops.shape(values.tokens), True, "bool")
    context = Context(values.tokens, real, length)
    scores = strategy.processors(ops, logits, context, settings.processors)
    tokens = ops.argmax(scores)
    if variant.samples:
        drawn, _ = strategy.choose(ops, scores, length - start, context, settings)
        tokens = ops.where(is_drawn[:, 0] > 0, drawn, tokens)
    return tokens, is_sound


def _sampling(
    values: TextValues, variant: Variant, start: Array, top_k: Array
) -> tuple[Sample, Settings]:
    """Return the strategy of a variant, and its values of each text.

    Of both, what only the loop of `generate` reads is left empty.
    """
    numbers = {name: values.numbers[:, i : i + 1] for i, name in enumerate(_NUMBERS)}
    penalties = {"presence": numbers["presence_penalty"], "frequency": numbers["frequency_penalty"]}
    own: dict[type[BuiltInProcessor], Values] = {
        AddedBias: {"bias": values.bias},
        RepetitionPenaltyLogitsProcessor: {"penalty": numbers["repetition_penalty"], "ignored": 0},
        NewTextPenalty: {**penalties, "start": start},
        TemperatureLogitsWarper: {"temperature": numbers["temperature"]},
        TopK: {"k": top_k},
        TopPLogitsWarper: {"cut": numbers["cut"]},
        MinPLogitsWarper: {"min_p": numbers["min_p"]},
        TypicalLogitsWarper: {"typical_p": numbers["typical_p"]},
    }
    processors, warpers = variant.kinds
    strategy = Sample(
        capacity=0,
        steps=0,
        processors=_static(processors),
        warpers=_static(warpers),
        width=variant.width,
    )
    settings = Settings(
        prompt=(),
        real=(),
        prompt_length=0,
        max_length=0,
        eos=(),
        fill=0,
        keys=(values.keys[:, 0], values.keys[:, 1]),
        processors=[own[kind] for kind in processors],
        warpers=[own[kind] for kind in warpers],
        top_k=top_k,
        length_penalty=1.0,
    )
    return strategy, settings


#: `static` of the filters: min_tokens_to_keep, filter_value.
_FILTER = (1, NEG_INF)


def _static(kinds: Sequence[type[BuiltInProcessor]]) -> Processors:
    return Processors(tuple((kind, _FILTER) for kind in kinds))
