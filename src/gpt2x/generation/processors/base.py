"""What a logits processor is, and how a list of them is applied inside a decoding step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, Scalar, as_column, is_scalar
from gpt2x.generation.registry import ops_for

NEG_INF = float("-inf")
Static = tuple[Any, ...]  # hashable items
Values = Mapping[str, Any]


class Context(NamedTuple):
    """The text so far, for the processors."""

    tokens: Array  # int [R, L]; columns at and beyond `length` hold no text yet
    real: Array  # bool [R, L]; False where the prompt is padding
    length: int | Scalar  # columns filled, prompt and its padding included; or int [R, 1]
    unconditional: Any = ()  # logits of guidance's second context, float [R, V]
    repeats: int = 1  # successive rows that are one row of the batch, at several lengths
    chosen: Any = ()  # int [R, n]: tokens that earlier groups of beams chose in this step

    def filled(self, ops: Ops) -> Array:
        """Return which columns hold text: bool [R, L]."""
        columns = ops.arange(ops.shape(self.tokens)[1])
        return self.real & (columns[None, :] < self.length)

    def last(self, ops: Ops, count: int) -> tuple[Array, Array]:
        """Return the last `count` tokens and whether each is text: int and bool [R, count]."""
        columns = ops.arange(count)[None, :] + (self.length - count)  # [1 or R, count]
        rows = ops.shape(self.tokens)[0]
        index = ops.full((rows, 1), 0, "int") + ops.maximum(columns, 0)
        is_text = ops.take_along(ops.cast(self.real, "int"), index) > 0
        return ops.take_along(self.tokens, index), is_text & (columns >= 0)

    def texts(self, ops: Ops) -> list[Array]:
        """Return each row's text up to its length, int [length]; the values are concrete."""
        # Cut on the host: on a device, JAX would compile a slice for each length.
        tokens, lengths = ops.to_numpy(self.tokens), ops.to_numpy(as_column(ops, self.length))
        ends = np.broadcast_to(lengths[:, 0], len(tokens)).tolist()
        return [ops.constant(text[:end], "int") for text, end in zip(tokens, ends, strict=True)]


class LogitsProcessor:
    """Base class of processors that users write: override `__call__`.

    PyTorch calls ``processor(input_ids, scores)``; TensorFlow and Flax call
    ``processor(input_ids, scores, cur_len)`` with `input_ids` as long as the buffer.
    scores: float [R, V] -> float [R, V].
    """

    def __call__(self, input_ids: Array, scores: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must override __call__")


class BuiltInProcessor(LogitsProcessor):
    """A processor written against `Ops`: it works in every framework and under its compiler.

    Its options are attributes with transformers' names; `static` and `values` are made of them.
    `static` has the parameters that shape the computation. `values` has the others; a compiled
    `generate` takes them as arguments, so a new value compiles nothing. `apply` must read its
    parameters from these two arguments only.
    """

    host: ClassVar[bool] = False  # True if `apply` needs concrete arrays, so cannot be compiled
    reads_text: ClassVar[bool] = True  # False if `apply` reads only the scores

    @property
    def static(self) -> Static:
        """The parameters that shape the computation, hashable."""
        return ()

    @property
    def values(self) -> Values:
        """The other parameters, as numbers and arrays."""
        return MappingProxyType({})

    def for_prompts(self, prompts: np.ndarray) -> BuiltInProcessor:
        """Return the processor for a part of a batch: the prompts of these numbers, int [b].

        `static` must stay as it is, since a part is compiled as its batch would be.
        """
        return self

    def after_prompt(self, length: int | Scalar) -> BuiltInProcessor:
        """Return the processor for a call of `generate` with prompts of this many columns."""
        return self

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        """Return the processed scores, float [R, V]."""
        raise NotImplementedError

    def __call__(
        self, input_ids: Array | None, scores: Array, cur_len: int | Scalar | None = None
    ) -> Array:
        """Process scores [R, V] after the tokens `input_ids[:, :cur_len]` (default: all).

        Processors that read only the scores, such as those of sampling, take None for `input_ids`.
        Scores of any floating dtype are processed in float32 and returned in their dtype.

        Raises:
            InvalidInputError: if tokens are needed and not given, or not in the vocabulary.
        """
        ops = ops_for(scores)
        if input_ids is None and self.reads_text:
            raise InvalidInputError(f"{type(self).__name__} needs input_ids, which are None.")
        if input_ids is None or not self.reads_text:
            input_ids, cur_len = ops.full((ops.shape(scores)[0], 0), 0, "int"), None
        rows, width = ops.shape(input_ids)
        length = width if cur_len is None else cur_len
        context = Context(ops.cast(input_ids, "int"), ops.full((rows, width), True, "bool"), length)
        check_token_ids([self], ops.shape(scores)[1])
        values = {name: to_device(ops, value) for name, value in self.values.items()}
        processed = self.apply(ops, ops.cast(scores, "float"), context, self.static, values)
        return ops.cast_like(processed, scores)


class LogitsProcessorList(list):
    """A list of processors, callable as one."""

    def __call__(self, input_ids: Array | None, scores: Array, *args: Any, **kwargs: Any) -> Array:
        """Apply all in order. Each gets `args` (`cur_len`) and those of `kwargs` that it takes.

        Raises:
            InvalidInputError: if a processor needs an argument that is not given.
        """
        for processor in self:
            scores = processor(input_ids, scores, *args, **_taken(processor, len(args), kwargs))
        return scores


def _taken(processor: Any, positional: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those of `kwargs` that a processor takes after ids, scores and `positional` others."""
    others = list(inspect.signature(processor).parameters.values())[2 + positional :]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [parameter for parameter in others if parameter.kind not in variable]
    missing = [p.name for p in named if p.default is p.empty and p.name not in kwargs]
    if missing:
        raise InvalidInputError(
            f"{type(processor).__name__} needs {missing[0]!r}; pass it to the list as a keyword."
        )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in others):
        return kwargs
    return {p.name: kwargs[p.name] for p in named if p.name in kwargs}


class Identity:
    """Holds an object so that it compares and hashes by identity, whatever its own methods say."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class UserProcessor(BuiltInProcessor):
    """A user's processor, called as its framework calls it (see `LogitsProcessor`)."""

    def __init__(self, function: Callable[..., Array], with_length: bool) -> None:
        self._function = Identity(function)
        self._with_length = with_length

    @property
    def static(self) -> Static:
        return (self._function, self._with_length)

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        function, with_length = static
        if not is_scalar(context.length):  # it takes texts of one length
            return _row_by_row(ops, scores, context, static, values)
        if with_length:
            return function.value(context.tokens, scores, context.length)
        return function.value(context.tokens[:, : context.length], scores)


def _row_by_row(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
    """Apply a user's processor to texts of different lengths, on the host."""
    processed = []
    for row, length in enumerate(ops.to_numpy(context.length)[:, 0].tolist()):
        alone = Context(context.tokens[row : row + 1], context.real[row : row + 1], length)
        scores_of_row = scores[row : row + 1]
        processed.append(UserProcessor.apply(ops, scores_of_row, alone, static, values))
    return ops.concat(processed, axis=0)


class Processors(NamedTuple):
    """The static part of a list of processors: their classes and `static`, without values."""

    kinds: tuple[tuple[type[BuiltInProcessor], Static], ...]

    @classmethod
    def of(cls, processors: Sequence[BuiltInProcessor]) -> Processors:
        return cls(tuple((type(processor), processor.static) for processor in processors))

    @property
    def host(self) -> bool:
        """Whether a processor needs concrete arrays."""
        return any(kind.host for kind, _ in self.kinds)

    @property
    def calls_users(self) -> bool:
        """Whether one of them is a user's, which takes texts of one length."""
        return any(issubclass(kind, UserProcessor) for kind, _ in self.kinds)

    def __call__(
        self, ops: Ops, scores: Array, context: Context, values: Sequence[Values]
    ) -> Array:
        """Apply all in order; `values` holds those of each processor."""
        for (kind, static), own in zip(self.kinds, values, strict=True):
            scores = kind.apply(ops, scores, context, static, own)
        return scores


def check_token_ids(processors: Sequence[BuiltInProcessor], vocab_size: int | Scalar) -> None:
    """Raise InvalidInputError if a processor names a token that the vocabulary does not have.

    A forbidden or favoured eos may be missing: configs of small models often name GPT-2's own, and
    such a model never generates it.
    """
    for processor in processors:
        for name, value in processor.values.items():
            is_ids = isinstance(value, np.ndarray) and value.dtype.kind == "i" and name != "eos"
            if not is_ids or not isinstance(vocab_size, int) or value.size == 0:
                continue
            if value.max() >= vocab_size:
                raise InvalidInputError(
                    f"{type(processor).__name__} was given token id {value.max()}, but the "
                    f"vocabulary has the ids 0 to {vocab_size - 1}."
                )


def to_device(ops: Ops, value: Any) -> Any:
    """Turn a host value (number, or numpy array) into a scalar or an array of the framework."""
    if isinstance(value, bool):
        return ops.scalar(value, "bool")
    if isinstance(value, int | float):
        return ops.scalar(value, "int" if isinstance(value, int) else "float")
    if isinstance(value, np.ndarray):
        return ops.constant(value, "int" if value.dtype.kind == "i" else "float")
    return value  # it is the framework's already, for example a traced temperature


def when(ops: Ops, condition: bool | Scalar, change: Callable[[], Array], scores: Array) -> Array:
    """Return `change()` if the condition holds, else the scores; free where that is known False."""
    return scores if condition is False else ops.where(condition, change(), scores)


def token_counts(ops: Ops, tokens: Array, counted: Array, scores: Array) -> Array:
    """Count each row's tokens where `counted`: int and bool [R, N] -> float, shape of `scores`."""
    columns = ops.where(counted, tokens, 0)  # padding may be any id, even one beyond V
    return ops.scatter_add(
        ops.full(ops.shape(scores), 0.0, "float"), columns, ops.cast(counted, "float")
    )


def token_mask(ops: Ops, token_ids: Array, scores: Array) -> Array:
    """Return which columns of scores [R, V] are among `token_ids` (int [N]): bool [1, V]."""
    vocab_size = ops.shape(scores)[1]
    columns = token_ids[None, :]
    exists = (columns >= 0) & (columns < vocab_size)
    zeros = ops.full((1, vocab_size), 0.0, "float")
    return ops.scatter_add(zeros, ops.where(exists, columns, 0), ops.cast(exists, "float")) > 0


def as_float(value: Any) -> Any:
    """Turn an int into a float; leave a traced value as it is."""
    return float(value) if isinstance(value, int) else value


def check_number(
    name: str, value: Any, allowed: str, holds: Callable[[Any], bool], integer: bool = False
) -> None:
    """Raise InvalidInputError unless a number given on the host satisfies `holds`.

    Arrays and traced scalars pass: their values are not known here.
    """
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool | str | type(None) | list | tuple) or (
        isinstance(value, int | float) and (not isinstance(value, kinds) or not holds(value))
    ):
        raise InvalidInputError(f"`{name}` must be {allowed}, but is {value!r}.")
