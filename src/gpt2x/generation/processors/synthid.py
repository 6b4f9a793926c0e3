"""SynthID's watermark: tokens are favoured by tournaments that the text before them decides.

Source: transformers 4.57, `SynthIDTextWatermarkLogitsProcessor`; doi:10.1038/s41586-024-08025-4.

R rows, N tokens, n `ngram_len`, K keys, V vocabulary. A *context* is the n - 1 tokens before one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x.config.watermarking import SynthIDTextWatermarkingConfig
from gpt2x.generation.ops import Array, Ops, Scalar, as_column
from gpt2x.generation.processors.base import BuiltInProcessor, Context, Static, Values
from gpt2x.generation.registry import ops_for
from gpt2x.models.checks import check_integers, check_shape

# Of a linear congruential generator with 64 bits.
MULTIPLIER = 6364136223846793005
# The score of a token that the watermark rules out.
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Tournaments:
    """Which tokens win after which contexts; hashable. The fields are those of the config."""

    ngram_len: int
    keys: tuple[int, ...]
    sampling_table_size: int
    sampling_table_seed: int
    context_history_size: int
    skip_first_ngram_calls: bool

    def contexts(self, tokens: np.ndarray) -> np.ndarray:
        """Return the hashes of the contexts within a text, and of its end.

        int64 [N] -> [N - n + 2].
        """
        size = self.ngram_len - 1
        starts = np.arange(len(tokens) - size + 1)[:, None]
        return _mixed(np.ones(len(starts), np.int64), tokens[starts + np.arange(size)])

    def values(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return the bits of tokens [N] after contexts, hashes [N or 1]: 0 or 1, int64 [N, K]."""
        hashes = _mixed(contexts, tokens[:, None])
        keys = np.array(self.keys, np.int64)
        numbers = _mixed(hashes[:, None], keys[None, :, None])
        return _bits(self.sampling_table_seed, self.sampling_table_size)[
            numbers % self.sampling_table_size
        ]

    def next_values(self, new: np.ndarray, vocab_size: int) -> np.ndarray | None:
        """Return the bits of all tokens after the new ones, int64 [N]: [V, K].

        None if the next token gets no watermark.
        """
        size, step = self.ngram_len - 1, len(new)
        if self.skip_first_ngram_calls and step < size:
            return None
        hashes = self.contexts(np.append(np.zeros(size, np.int64), new))
        if _is_repeated(self, hashes, size if self.skip_first_ngram_calls else 0):
            return None
        return self.values(hashes[-1:], np.arange(vocab_size))


class SynthIDTextWatermarkLogitsProcessor(BuiltInProcessor):
    """Favour the tokens that win SynthID's tournaments, for a `SynthIDTextWatermarkDetector`.

    The contexts are those of the new tokens; behind the prompt they begin with zeros. It runs on
    the host, whose integers of 64 bits the hashes need.

    ngram_len, keys, sampling_table_size, sampling_table_seed, context_history_size,
    skip_first_ngram_calls, debug_mode: see `SynthIDTextWatermarkingConfig`.
    device: has no effect.

    Called directly, it takes the text of its first call for the prompt.

    Raises:
        InvalidInputError: if an option cannot be used.
    """

    host = True

    def __init__(
        self,
        ngram_len: int,
        keys: Sequence[int],
        sampling_table_size: int,
        sampling_table_seed: int,
        context_history_size: int,
        device: Any = None,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        config = SynthIDTextWatermarkingConfig(
            ngram_len,
            list(keys),
            context_history_size,
            sampling_table_seed,
            sampling_table_size,
            skip_first_ngram_calls,
            debug_mode,
        )
        values = config.to_dict() | {"keys": tuple(config.keys)}
        self.debug_mode = values.pop("debug_mode")
        self.tournaments = Tournaments(**values)
        self.ngram_len = ngram_len
        self.keys = config.keys
        self.context_history_size = context_history_size
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self._prompt_length: int | Scalar | None = None

    @property
    def static(self) -> Static:
        return self.tournaments, self.debug_mode

    @property
    def values(self) -> Values:
        return {"prompt_length": self._prompt_length}

    def after_prompt(self, length: int | Scalar) -> SynthIDTextWatermarkLogitsProcessor:
        """Return the processor for texts whose new tokens begin at a column."""
        processor = copy.copy(self)
        processor._prompt_length = length
        return processor

    def __call__(
        self, input_ids: Array | None, scores: Array, cur_len: int | Scalar | None = None
    ) -> Array:
        """Process scores [R, V] after the tokens `input_ids[:, :cur_len]` (default: all)."""
        if self._prompt_length is None and input_ids is not None:
            self._prompt_length = input_ids.shape[1] if cur_len is None else int(cur_len)
        return super().__call__(input_ids, scores, cur_len)

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        tournaments, is_debugging = static
        rows, vocab_size = ops.shape(scores)
        start = int(values["prompt_length"])
        tokens = ops.to_numpy(context.tokens).astype(np.int64)
        lengths = np.broadcast_to(ops.to_numpy(as_column(ops, context.length)), (rows, 1))
        found = [
            tournaments.next_values(text[start : int(length)], vocab_size)
            for text, (length,) in zip(tokens, lengths, strict=True)
        ]
        marked = np.array([[bits is not None] for bits in found])
        none = np.zeros((vocab_size, len(tournaments.keys)), np.int64)
        layers = np.moveaxis(np.stack([none if bits is None else bits for bits in found]), 2, 0)
        if is_debugging:
            scores = scores * 0 + 1
        favoured = _played(ops, scores, [ops.constant(layer, "float") for layer in layers])
        return ops.where(ops.constant(marked, "bool"), favoured, scores)

    def compute_g_values(self, input_ids: Array) -> Array:
        """Return the bits that tokens have after their contexts.

        Args:
            input_ids: int [R, N], of any framework.

        Returns:
            0 or 1, int [R, N - n + 1, K].
        """
        ids, size = _on_host(input_ids), self.ngram_len - 1
        values = [
            self.tournaments.values(self.tournaments.contexts(row)[:-1], row[size:]) for row in ids
        ]
        return ops_for(input_ids).constant(np.stack(values), "int")

    def compute_context_repetition_mask(self, input_ids: Array) -> Array:
        """Return which tokens have a context that is not remembered: bool [R, N - n + 1]."""
        masks = []
        for row in _on_host(input_ids):
            hashes = self.tournaments.contexts(row)[:-1]
            stops = range(1, len(hashes) + 1)
            masks.append([not _is_repeated(self.tournaments, hashes[:stop]) for stop in stops])
        return ops_for(input_ids).constant(np.array(masks), "bool")

    def compute_eos_token_mask(self, input_ids: Array, eos_token_id: int) -> Array:
        """Return which tokens stand before the first eos of their text: bool [R, N]."""
        is_eos = _on_host(input_ids) == eos_token_id
        return ops_for(input_ids).constant(np.cumsum(is_eos, axis=1) == 0, "bool")

    def expected_mean_g_value(self, vocab_size: int, coinflip_prob: float = 0.5) -> float:
        """Return the mean bit that one tournament among equally likely tokens leads to.

        vocab_size: V; coinflip_prob: how often a bit is 1.
        """
        variance = coinflip_prob * (1 - coinflip_prob)
        return coinflip_prob + variance * (1 - 1 / vocab_size)


def _played(ops: Ops, scores: Array, bits: Sequence[Array]) -> Array:
    """Return the scores after a tournament for each of the bits [R, V]."""
    probabilities = ops.exp(ops.log_softmax(scores))
    for layer in bits:
        mass = ops.sum(layer * probabilities, axis=1)[:, None]
        probabilities = probabilities * (1.0 + layer - mass)
    is_possible = probabilities > 0
    return ops.where(is_possible, ops.log(ops.where(is_possible, probabilities, 1.0)), LOWEST)


def _mixed(hashes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mix numbers int64 [..., M] into hashes int64 [...]; sums and products wrap around."""
    for column in np.moveaxis(numbers, -1, 0):
        hashes = (hashes + column) * MULTIPLIER + 1
    return hashes


def _is_repeated(tournaments: Tournaments, hashes: np.ndarray, first: int = 0) -> bool:
    """Return whether the last of the contexts is among those before it that are remembered.

    Contexts before `first` are not. The memory begins as zeros.
    """
    size = tournaments.context_history_size
    before = hashes[first:-1]
    remembered = before[max(0, len(before) - size) :]
    return bool((remembered == hashes[-1]).any() or (len(before) < size and hashes[-1] == 0))


@functools.lru_cache(maxsize=4)
def _bits(seed: int, size: int) -> np.ndarray:
    """Return the table of random bits, those of PyTorch's generator on a CPU: int64 [size]."""
    words = np.frombuffer(np.random.RandomState(seed % 2**32).bytes(4 * size), np.dtype("<u4"))
    return (words & 1).astype(np.int64)


def _on_host(input_ids: Array) -> np.ndarray:
    ids = ops_for(input_ids).to_numpy(input_ids)
    check_integers("input_ids", ids)
    check_shape("input_ids", ids, [(None, None)])
    return ids.astype(np.int64)
