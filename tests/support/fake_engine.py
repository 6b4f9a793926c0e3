"""A model without weights, for tests of decoding: it knows what to write by heart.

The alphabet's letters are the tokens; ``$`` ends a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.generation.ops import Ops

ALPHABET = "$abcdefghijklmnopqrstuvwxyz "
EOS = 0
VOCAB_SIZE = len(ALPHABET)


def spell(*texts: str) -> np.ndarray:
    """Return texts of one length as ids [B, T]."""
    return np.array([[ALPHABET.index(letter) for letter in text] for text in texts], np.int32)


def read(ids: Any) -> list[str]:
    """Return rows of ids as texts."""
    return ["".join(ALPHABET[token] for token in row) for row in np.asarray(ids).tolist()]


class SpellingEngine:
    """Predicts, for each prompt, the letters of its story one after the other.

    The cache is the row's story and its text so far, so that a wrong reorder shows in the result.
    `calls` counts the tokens computed; `seen` are the tokens that each call was given.
    """

    def __init__(self, ops: Ops, stories: list[str], prompt_length: int) -> None:
        self.ops = ops
        length = max(len(story) for story in stories)
        self.stories = spell(*(story.ljust(length, "$") for story in stories))
        self.prompt_length = prompt_length
        self.calls = 0
        self.seen: list[list[int]] = []

    def _logits(self, stories: Any, column: Any) -> Any:
        """Return logits [R, V]: the story's letter at a column, and less likely ones beside it."""
        table = self.ops.constant(np.eye(VOCAB_SIZE, dtype=np.float32) * 6, "float")
        rows = self.ops.shape(stories)[0]
        index = self.ops.full((rows, 1), 0, "int") + column
        letters = self.ops.take_along(stories, index)[:, 0]
        return self.ops.take(table, letters)

    def prefill(self) -> tuple[Any, Any]:
        self.calls += 1
        stories = self.ops.constant(self.stories, "int")
        return self._logits(stories, self.prompt_length), stories

    def decode(self, tokens: Any, cache: Any, length: Any) -> tuple[Any, Any]:
        self.calls += 1
        self.seen.append(np.asarray(tokens).tolist())
        return self._logits(cache, length), cache

    def reorder(self, cache: Any, parents: Any) -> Any:
        return self.ops.take(cache, parents)


class MarkovEngine:
    """A random language: the next token depends on the last one and on the sum of those before.

    The cache is that sum [R], so that rows that are reordered wrongly go on wrongly.
    """

    def __init__(self, ops: Ops, prompt: np.ndarray, vocab_size: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.ops = ops
        self.prompt = prompt
        self.table = generator.normal(0, 2, (vocab_size, vocab_size)).astype(np.float32)
        self.moods = generator.normal(0, 1, (5, vocab_size)).astype(np.float32)

    def _logits(self, tokens: Any, sums: Any) -> Any:
        table, moods = (self.ops.constant(array, "float") for array in (self.table, self.moods))
        return self.ops.take(table, tokens) + self.ops.take(moods, sums % 5)

    def prefill(self) -> tuple[Any, Any]:
        last = self.ops.constant(self.prompt[:, -1], "int")
        sums = self.ops.constant(self.prompt.sum(axis=1), "int")
        return self._logits(last, sums), sums

    def decode(self, tokens: Any, cache: Any, length: Any) -> tuple[Any, Any]:
        sums = cache + tokens
        return self._logits(tokens, sums), sums

    def reorder(self, cache: Any, parents: Any) -> Any:
        return self.ops.take(cache, parents)

    def log_probability(self, prompt: list[int], continuation: list[int]) -> float:
        """Return the log-probability of a continuation, computed plainly in float64."""
        text, total = list(prompt), 0.0
        for token in continuation:
            logits = (self.table[text[-1]] + self.moods[sum(text) % 5]).astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            text.append(token)
        return total
