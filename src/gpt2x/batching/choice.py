"""The next token of each text of a batch, each by its own options.

The arithmetic is that of `generate`: its processors, and the draw of its strategy `Sample`, on
values that each text has for itself. A value that switches something off changes no score, so that
the texts beside one in the batch never change its tokens.

R texts, L columns of the token buffer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gpt2x.batching.options import TextOptions
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops, Scalar
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
_FEW = 64


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
    """Which parts of the computation the texts of a batch need; the others are left out.

    They are bools. A compiler gets them as scalars: what one computation leaves out is decided when
    it runs, so that it serves all texts.

    Attributes:
        wide: a text draws its tokens from the whole vocabulary.
        narrow: a text draws its tokens from few candidates, the likeliest.
        top_k: a text that draws from the whole vocabulary has fewer candidates.
        top_p, min_p, typical_p: a text has one of the other filters of sampling.
        edits: scores are changed by the text, or token by token. It is read on the host alone: see
            `TextValues.bias`.
    """

    wide: bool | Scalar = False
    narrow: bool | Scalar = False
    top_k: bool | Scalar = False
    top_p: bool | Scalar = False
    min_p: bool | Scalar = False
    typical_p: bool | Scalar = False
    edits: bool | Scalar = False

    @classmethod
    def of(cls, options: Sequence[TextOptions]) -> Variant:
        """Return what these texts need."""
        drawn = [each for each in options if each.samples]
        ways = {_way(each) for each in drawn}
        return cls(
            wide=_WIDE in ways,
            narrow=_NARROW in ways,
            top_k=any(each.top_k > _FEW for each in drawn),
            top_p=any(each.top_p < 1 for each in drawn),
            min_p=any(each.min_p > 0 for each in drawn),
            typical_p=any(each.typical_p < 1 for each in drawn),
            edits=any(each.edits for each in options),
        )


#: How a text's next token is found: the likeliest one, or drawn from all or from a few candidates.
_LIKELIEST, _WIDE, _NARROW = range(3)


def _way(options: TextOptions) -> int:
    if not options.samples:
        return _LIKELIEST
    return _NARROW if 0 < options.top_k <= _FEW else _WIDE


class TextValues(NamedTuple):
    """What `choose` reads of the texts; a pytree of few arrays, since each is moved at every step.

    Attributes:
        tokens: int32 [R, L], the texts so far; L is 0 if nothing reads them.
        counts: int32 [R, 4]: the text's length, that of its prompt, top_k, and `_way`.
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
        values.counts[row] = len(prompt), len(prompt), top_k, _way(options)
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

    A text's token does not depend on what the others need.

    Args:
        ops: the framework's.
        logits: float32 [R, V].
        values: of the texts, in arrays of the framework; keys are words.
        variant: of the computation, one that serves all of the texts.
    """
    is_sound = ops.all(logits == logits, axis=-1)
    real = ops.full(ops.shape(values.tokens), True, "bool")
    context = Context(values.tokens, real, values.counts[:, :1])
    has_edits = not isinstance(values.bias, tuple)
    static, own = _processors(values, dict.fromkeys(_EDITS, has_edits))
    scores = static(ops, logits, context, own)
    tokens = ops.argmax(scores)
    draw = partial(_drawn, ops, scores, context, values)
    wide = {
        TopK: variant.top_k,
        TopPLogitsWarper: variant.top_p,
        MinPLogitsWarper: variant.min_p,
        TypicalLogitsWarper: variant.typical_p,
    }
    narrow = {**wide, TopK: False}  # the candidates are those of top_k
    tokens = _if_asked(ops, variant.wide, partial(draw, _WIDE, wide), tokens)
    tokens = _if_asked(ops, variant.narrow, partial(draw, _NARROW, narrow), tokens)
    return tokens, is_sound


def _drawn(
    ops: Ops,
    scores: Array,
    context: Context,
    values: TextValues,
    way: int,
    asked: Asked,
    tokens: Array,
) -> Array:
    """Return the tokens of texts, int [R], those of one way drawn anew by filters asked for."""
    length, start, top_k, ways = (values.counts[:, i : i + 1] for i in range(4))
    processors, own_of_processors = _processors(values, {TemperatureLogitsWarper: True})
    warpers, own_of_warpers = _processors(values, asked)
    # What only the loop of `generate` reads is left empty, in both.
    strategy = Sample(
        capacity=0,
        steps=0,
        processors=processors,
        warpers=warpers,
        width=candidate_width(_FEW) if way == _NARROW else 0,
    )
    settings = Settings(
        prompt=(),
        real=(),
        prompt_length=0,
        max_length=0,
        eos=(),
        fill=0,
        keys=(values.keys[:, 0], values.keys[:, 1]),
        processors=own_of_processors,
        warpers=own_of_warpers,
        top_k=top_k,
        length_penalty=1.0,
    )
    scores = strategy.processors(ops, scores, context, settings.processors)
    drawn, _ = strategy.choose(ops, scores, length - start, context, settings)
    return ops.where(ways[:, 0] == way, drawn, tokens)


class IfAsked(BuiltInProcessor):
    """A processor that is left out where no text asks for it.

    static: its class, and its own `static`; values: `is_asked` and its own.
    """

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        kind, own = static

        def change(scores: Array) -> Array:
            return kind.apply(ops, scores, context, own, values)

        return _if_asked(ops, values["is_asked"], change, scores)


def _if_asked(
    ops: Ops, is_asked: bool | Scalar, change: Callable[[Array], Array], array: Array
) -> Array:
    """Return `change(array)` if it is asked for, else the array.

    Of a scalar it is a loop of one turn or none: the branch that all frameworks have.
    """
    if isinstance(is_asked, bool):
        return change(array) if is_asked else array

    def turn(state: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        return change(state[0]), ops.scalar(False, "bool")

    return ops.while_loop(lambda state: state[1], turn, (array, is_asked))[0]


#: Kinds of processors, each with whether a text asks for it.
Asked = Mapping[type[BuiltInProcessor], Any]

_EDITS = (AddedBias, RepetitionPenaltyLogitsProcessor, NewTextPenalty)

#: `static` of the filters: min_tokens_to_keep, filter_value.
_FILTER = (1, NEG_INF)


def _processors(values: TextValues, asked: Asked) -> tuple[Processors, list[Values]]:
    """Return processors in their order, and the values of each."""
    numbers = {name: values.numbers[:, i : i + 1] for i, name in enumerate(_NUMBERS)}
    penalties = {"presence": numbers["presence_penalty"], "frequency": numbers["frequency_penalty"]}
    own: dict[type[BuiltInProcessor], Values] = {
        AddedBias: {"bias": values.bias},
        RepetitionPenaltyLogitsProcessor: {"penalty": numbers["repetition_penalty"], "ignored": 0},
        NewTextPenalty: {**penalties, "start": values.counts[:, 1:2]},
        TemperatureLogitsWarper: {"temperature": numbers["temperature"]},
        TopK: {"k": values.counts[:, 2:3]},
        TopPLogitsWarper: {"cut": numbers["cut"]},
        MinPLogitsWarper: {"min_p": numbers["min_p"]},
        TypicalLogitsWarper: {"typical_p": numbers["typical_p"]},
    }
    kinds = tuple((IfAsked, (kind, _FILTER)) for kind in asked)
    return Processors(kinds), [{**own[kind], "is_asked": is_on} for kind, is_on in asked.items()]
