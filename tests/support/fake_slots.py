"""Slots without a model: what follows a text is a function of all of its tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from gpt2x.batching.choice import LogProbabilities, TextValues, Variant, choose, log_probabilities
from gpt2x.batching.options import TextOptions
from gpt2x.batching.slots import as_log_probabilities
from gpt2x.generation.numpy_ops import NUMPY_OPS

VOCAB = 23


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    """Return the logits after a text, float32 [V]."""
    seed = zlib.crc32(np.array(tokens, np.int64).tobytes())
    return np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)


def written(prompt: Sequence[int], count: int) -> list[int]:
    """Return the likeliest tokens that follow a prompt."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(logits_after(text).argmax()))
    return text[len(prompt) :]


class FakeSlots:
    """Rows of tokens; see `gpt2x.batching.slots.Slots`."""

    vocab_size = VOCAB

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._tokens = np.full((rows, columns), -1)
        self.run = 0  # tokens

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> np.ndarray:
        self._tokens[row, start : start + len(tokens)] = tokens
        self.run += len(tokens)
        ends = range(start + 1, start + len(tokens) + 1)
        found = [logits_after(self._tokens[row, :end]) for end in ends]
        return np.stack(found if every else found[-1:])

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        found = [
            self.prefill(row, tokens[row : row + 1], starts[row]) for row in range(len(tokens))
        ]
        return np.concatenate(found)

    def logits_at(self, logits: np.ndarray, number: int) -> np.ndarray:
        return logits[number : number + 1]

    def choose(
        self, logits: np.ndarray, values: TextValues, variant: Variant
    ) -> tuple[np.ndarray, np.ndarray]:
        return choose(NUMPY_OPS, logits, values, variant)

    def log_probabilities(self, logits: np.ndarray, tokens: np.ndarray) -> list[LogProbabilities]:
        return as_log_probabilities(*log_probabilities(NUMPY_OPS, logits[: len(tokens)], tokens))

    def swap(self, row: int, other: int, length: int) -> None:
        part = self._tokens[[other, row], :length]
        self._tokens[[row, other], :length] = part

    def copy(self, row: int, other: int, length: int) -> None:
        self._tokens[other, :length] = self._tokens[row, :length]

    def warm_up(self) -> None:
        pass


def greedy(count: int) -> TextOptions:
    """Return the options of a text of the likeliest tokens."""
    return TextOptions(max_new_tokens=count, temperature=0)
