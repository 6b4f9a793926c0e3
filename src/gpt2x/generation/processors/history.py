"""Processors that look at the tokens so far: repetitions, n-grams, biased and banned sequences."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.processors.base import (
    NEG_INF,
    BuiltInProcessor,
    Context,
    Static,
    Values,
    check_number,
    token_counts,
)
from gpt2x.generation.registry import ops_for
from gpt2x.generation.tokens import token_list


def _penalise(ops: Ops, scores: Array, repeated: Array, penalty: Array) -> Array:
    """Divide positive scores by the penalty and multiply negative ones with it."""
    return ops.where(repeated, ops.where(scores < 0, scores * penalty, scores / penalty), scores)


class RepetitionPenaltyLogitsProcessor(BuiltInProcessor):
    """Make the tokens of the text so far less likely (penalty > 1), once each (CTRL,
    arXiv:1909.05858). Padding does not count as text, nor do the first `prompt_ignore_length`
    columns.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | None = None) -> None:
        check_number("repetition_penalty", penalty, "a number above 0", lambda value: value > 0)
        ignored = 0 if prompt_ignore_length is None else prompt_ignore_length
        check_number(
            "prompt_ignore_length", ignored, "an integer of at least 0", lambda n: n >= 0, True
        )
        self.penalty = penalty
        self.prompt_ignore_length = prompt_ignore_length

    @property
    def values(self) -> Values:
        return {"penalty": self.penalty, "ignored": self.prompt_ignore_length or 0}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        columns = ops.arange(ops.shape(context.tokens)[1])
        counted = context.filled(ops) & (columns >= values["ignored"])[None, :]
        counts = token_counts(ops, context.tokens, counted, scores)
        return _penalise(ops, scores, counts > 0, values["penalty"])


class GivenText(BuiltInProcessor):
    """Base of the processors that read the prompt.

    encoder_input_ids: the prompts, int [N] or [B, N]; the rows of each follow one another in the
        scores [R, V], so R is a multiple of B. Or a number n: the prompt is the first n tokens of
        the text, without padding.
    """

    def __init__(self, encoder_input_ids: Array | int | Scalar) -> None:
        self.encoder_input_ids = encoder_input_ids

    @property
    def values(self) -> Values:
        given = self.encoder_input_ids
        if isinstance(given, int) or len(given.shape) == 0:
            return {"prompt_length": given}
        ids = ops_for(given).to_numpy(given).astype(np.int32)
        return {"prompt": ids.reshape(-1, ids.shape[-1])}

    def for_prompts(self, prompts: np.ndarray) -> GivenText:
        given = self.values.get("prompt")
        if given is None or len(given) == 1:
            return self
        part = copy.copy(self)
        part.encoder_input_ids = given[prompts]
        return part

    @staticmethod
    def prompt(ops: Ops, context: Context, values: Values) -> Context:
        """Return the prompt of every row."""
        if "prompt_length" in values:
            return context._replace(length=values["prompt_length"])
        tokens = values["prompt"]
        prompts, width = ops.shape(tokens)
        rows = ops.shape(context.tokens)[0]
        tokens = ops.take(tokens, ops.arange(rows) // (rows // prompts))
        return Context(tokens, ops.full((rows, width), True, "bool"), width)


class EncoderRepetitionPenaltyLogitsProcessor(GivenText):
    """Make the tokens of the prompt more likely (penalty > 1), against hallucination.

    penalty: the attribute is its inverse, by which the scores are divided.
    """

    def __init__(self, penalty: float, encoder_input_ids: Array | int | Scalar) -> None:
        check_number(
            "encoder_repetition_penalty", penalty, "a number above 0", lambda value: value > 0
        )
        super().__init__(encoder_input_ids)
        self.penalty = 1 / penalty

    @property
    def values(self) -> Values:
        return {**super().values, "penalty": self.penalty}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        prompt = GivenText.prompt(ops, context, values)
        counts = token_counts(ops, prompt.tokens, prompt.filled(ops), scores)
        return _penalise(ops, scores, counts > 0, values["penalty"])


class NoRepeatNGramLogitsProcessor(BuiltInProcessor):
    """Ban every token that would complete an n-gram of the text so far."""

    def __init__(self, ngram_size: int) -> None:
        check_number(
            "no_repeat_ngram_size", ngram_size, "an integer above 0", lambda n: n > 0, integer=True
        )
        self.ngram_size = ngram_size

    @property
    def static(self) -> Static:
        return (self.ngram_size,)

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        return _ban_ngrams(ops, scores, context, static[0], context)


class EncoderNoRepeatNGramLogitsProcessor(GivenText):
    """Ban every token that would complete an n-gram of the prompt.

    ngram_size: the attribute for n.
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Array | int | Scalar) -> None:
        check_number(
            "encoder_ngram_size",
            encoder_ngram_size,
            "an integer above 0",
            lambda n: n > 0,
            integer=True,
        )
        super().__init__(encoder_input_ids)
        self.ngram_size = encoder_ngram_size

    @property
    def static(self) -> Static:
        return (self.ngram_size,)

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        prompt = GivenText.prompt(ops, context, values)
        return _ban_ngrams(ops, scores, context, static[0], prompt)


def _ban_ngrams(ops: Ops, scores: Array, context: Context, size: int, source: Context) -> Array:
    """Ban tokens that would complete an n-gram of length `size` of `source`."""
    capacity = ops.shape(source.tokens)[1]
    windows = capacity - size + 1
    if not isinstance(windows, int):  # known only when the graph runs
        windows = ops.maximum(windows, 0)
    elif windows <= 0:
        return scores
    text = source.filled(ops)  # [R, L]
    tail, tail_is_text = context.last(ops, size - 1)  # [R, n-1]
    matches = text[:, size - 1 :]  # [R, windows]: the window's last token is text
    for offset in range(size - 1):
        matches = (
            matches
            & text[:, offset : offset + windows]
            & (source.tokens[:, offset : offset + windows] == tail[:, offset : offset + 1])
            & tail_is_text[:, offset : offset + 1]
        )
    banned = token_counts(ops, source.tokens[:, size - 1 :], matches, scores) > 0
    return ops.where(banned, NEG_INF, scores)


def _sequence(name: str, value: Any) -> list[int]:
    if isinstance(value, int):  # [1, 2] may be meant for one sequence, or for two
        raise InvalidInputError(
            f"`{name}` must hold sequences of token ids, but holds {value!r}; write [{value!r}]."
        )
    return token_list(name, value)


class SequenceBiasLogitsProcessor(BuiltInProcessor):
    """Add a bias to the last token of each given sequence where the text ends in the others.

    sequence_bias: a dict from tuples of token ids to floats, which is also the attribute; or a list
        of [ids, bias] pairs.
    """

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any]) -> None:
        if isinstance(sequence_bias, Mapping):
            pairs = list(sequence_bias.items())
        else:
            pairs = [tuple(pair) for pair in sequence_bias]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise InvalidInputError(
                "`sequence_bias` must be a non-empty dict from tuples of token ids to floats, or a "
                f"list of [token ids, bias] pairs, but is {sequence_bias!r}."
            )
        sequences = [_sequence("sequence_bias", sequence) for sequence, _ in pairs]
        for _, bias in pairs:
            check_number("sequence_bias", bias, "made of numbers", lambda value: True)
        self.sequence_bias = {
            tuple(sequence): float(bias)
            for sequence, (_, bias) in zip(sequences, pairs, strict=True)
        }

    @property
    def values(self) -> Values:
        # An empty list still needs arrays: a prefix that no text has.
        biases = self.sequence_bias or {(0, 0): 0.0}
        sequences = list(biases)
        width = max(len(sequence) for sequence in sequences)
        prefixes = np.full((len(sequences), width - 1), -1, np.int32)  # right-aligned; -1: any
        for row, sequence in enumerate(sequences):
            prefixes[row, width - len(sequence) :] = sequence[:-1]
        return {
            "prefixes": prefixes,
            "last": np.array([sequence[-1] for sequence in sequences], np.int32),
            "bias": np.array(list(biases.values()), np.float32),
        }

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        prefixes, last, bias = values["prefixes"], values["last"], values["bias"]
        width = ops.shape(prefixes)[1]
        tail, is_text = context.last(ops, width)  # [R, width]
        same = is_text[:, None, :] & (tail[:, None, :] == prefixes[None, :, :])
        matches = ops.all(same | (prefixes < 0)[None, :, :], axis=-1)  # [R, S]
        columns = ops.where(matches, last[None, :], 0)
        return ops.scatter_add(scores, columns, ops.where(matches, bias[None, :], 0.0))


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Ban sequences of tokens. A sequence of a single eos token is not banned.

    bad_word_ids: the attribute for the argument bad_words_ids.
    """

    def __init__(
        self,
        bad_words_ids: Sequence[Sequence[int]],
        eos_token_id: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(bad_words_ids, list | tuple) or not bad_words_ids:
            raise InvalidInputError(
                "`bad_words_ids` must be a non-empty list of lists of token ids, but is "
                f"{bad_words_ids!r}."
            )
        sequences = [_sequence("bad_words_ids", sequence) for sequence in bad_words_ids]
        eos = [] if eos_token_id is None else token_list("eos_token_id", eos_token_id)
        self.bad_word_ids = bad_words_ids
        self.sequence_bias = {
            tuple(sequence): NEG_INF
            for sequence in sequences
            if sequence not in [[token] for token in eos]
        }
