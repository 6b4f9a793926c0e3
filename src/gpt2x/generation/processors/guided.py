"""The processor that keeps new text within a grammar (`gpt2x.generation.grammar`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.grammar import llguidance
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors.base import (
    NEG_INF,
    BuiltInProcessor,
    Context,
    Static,
    Values,
)
from gpt2x.generation.processors.constraints import LARGEST_FLOAT


class _Reader(NamedTuple):
    """A matcher, and what it has read.

    Attributes:
        text: int [tokens].
        matcher: an `LLMatcher`.
        is_open: whether the text may go on: False if it has ended, or if its next token is not of
            the grammar, as in beams that have lost.
    """

    text: np.ndarray
    matcher: Any
    is_open: bool = True


class GrammarLogitsProcessor(BuiltInProcessor):
    """Allow only tokens with which the new text can still become one of the grammar.

    eos is allowed exactly where the text is one, and alone after it. If other options forbid
    everything that the grammar allows, all of that is allowed again, with equal scores.

    An instance serves one call of `generate`. It knows each row's matcher by the row's text, so
    that rows may change places, be copied, and go back.

    Args:
        matcher: an `LLMatcher` at the start of a text.
        prompt_length: columns of the prompt, which is not matched.
        eos: the ids that end a text.
    """

    host = True

    def __init__(self, matcher: Any, prompt_length: int, eos: Sequence[int]) -> None:
        self._start = _Reader(np.empty(0, np.int32), matcher)
        self._prompt_length = prompt_length
        self._eos = np.array(eos, np.int32)
        self._readers: list[_Reader] = []  # of the rows of the last step

    @property
    def values(self) -> Values:
        # Not static: the model is compiled for what is, and would be again for each call.
        return {"processor": self}

    def for_prompts(self, prompts: np.ndarray) -> GrammarLogitsProcessor:
        return GrammarLogitsProcessor(self._start.matcher, self._prompt_length, self._eos.tolist())

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        processor: GrammarLogitsProcessor = values["processor"]
        rows, vocab_size = ops.shape(scores)
        # Slices of lengths that change would compile something new each time, in JAX.
        tokens = ops.to_numpy(context.tokens)[:, processor._prompt_length :]
        length = ops.to_numpy(context.length).reshape(-1) - processor._prompt_length
        lengths = np.broadcast_to(length, (rows,))
        texts = [tokens[row, : lengths[row]].astype(np.int32) for row in range(rows)]
        allowed = ops.constant(processor.allowed(texts, vocab_size), "bool")
        kept = ops.where(allowed, scores, NEG_INF)
        stuck = ops.max(kept, axis=-1) <= -LARGEST_FLOAT  # [R]
        return ops.where(allowed & stuck[:, None], 0.0, kept) if bool(ops.any(stuck)) else kept

    def allowed(self, texts: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
        """Return the tokens that may follow each text, int [new tokens] of R rows: bool [R, V]."""
        self._readers = self._advanced(texts)
        is_closed = np.array([not reader.is_open for reader in self._readers])
        bits = np.zeros((len(texts), -(-vocab_size // 32)), np.int32)
        matchers = [(r.matcher, row) for row, r in enumerate(self._readers) if r.is_open]
        if matchers:
            llguidance("llguidance.numpy").fill_next_token_bitmask_par(_executor(), matchers, bits)
        for matcher, _ in matchers:
            _check(matcher)
        flags = np.unpackbits(bits.view(np.uint8), axis=1, count=vocab_size, bitorder="little")
        allowed = flags.view(np.bool_)
        allowed[np.ix_(is_closed, self._eos)] = True
        return allowed

    def _advanced(self, texts: Sequence[np.ndarray]) -> list[_Reader]:
        """Return the readers of the texts, which go on from those of the last step."""
        known = {reader.text.tobytes(): reader for reader in self._readers}
        written = [text[: _count_before(text, self._eos)] for text in texts]
        sources = [self._source(known, row, text) for row, text in enumerate(written)]
        waiting = Counter(id(source.matcher) for source in sources)
        readers = []
        for text, whole, source in zip(written, texts, sources, strict=True):
            waiting[id(source.matcher)] -= 1
            is_shared = source is self._start or waiting[id(source.matcher)] > 0
            matcher = source.matcher.deep_copy() if is_shared else source.matcher
            reader = _read(matcher, source.text, text)
            readers.append(reader._replace(is_open=reader.is_open and len(text) == len(whole)))
        return readers

    def _source(self, known: dict[bytes, _Reader], row: int, text: np.ndarray) -> _Reader:
        """Return the reader that goes on to a row's text, usually with its last token."""
        own = self._readers[row] if row < len(self._readers) else self._start
        if np.array_equal(own.text, text[:-1]):
            return own
        # A row may continue another, and speculation goes back from where the row was.
        return known.get(text[:-1].tobytes(), own)


def _read(matcher: Any, before: np.ndarray, text: np.ndarray) -> _Reader:
    """Let a matcher that has read `before` read `text`."""
    shared = _count_before(before[: len(text)] != text[: len(before)], np.array([True]))
    if shared < len(before):
        matcher.rollback(len(before) - shared)
    new = text[shared:].tolist()
    count = matcher.try_consume_tokens(new)
    _check(matcher)
    return _Reader(text[: shared + count], matcher, count == len(new))


def _count_before(values: np.ndarray, stops: np.ndarray) -> int:
    """Return how many values [N] come before the first of `stops`; all if there is none."""
    is_stop = np.isin(values, stops)
    return int(is_stop.argmax()) if is_stop.any() else len(values)


def _check(matcher: Any) -> None:
    if matcher.is_error():
        raise InvalidInputError(f"The grammar cannot go on: {matcher.get_error().strip()}")


@cache
def _executor() -> Any:
    return llguidance().LLExecutor()
