"""A model without weights, for tests of decoding: it knows what to write by heart.

The alphabet's letters are the tokens; ``$`` ends a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.generation.ops import Ops, is_scalar
from gpt2x.generation.strategies import Outputs, Request

ALPHABET = "$abcdefghijklmnopqrstuvwxyz "
EOS = 0
VOCAB_SIZE = len(ALPHABET)


def spell(*texts: str) -> np.ndarray:
    """Return texts of one length as ids [B, T]."""
    return np.array([[ALPHABET.index(letter) for letter in text] for text in texts], np.int32)


def read(ids: Any) -> list[str]:
    """Return rows of ids as texts."""
    return ["".join(ALPHABET[token] for token in row) for row in np.asarray(ids).tolist()]


def columns_of(ops: Ops, request: Request) -> Any:
    """Return the columns of a request's tokens: int [R, k]."""
    rows, count = ops.shape(request.tokens)
    start = request.start
    starts = ops.full((rows,), start, "int") if is_scalar(start) else start
    return starts[:, None] + ops.arange(count)[None, :]


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

    def _outputs(self, stories: Any, columns: Any) -> Outputs:
        """Return the outputs that make the story's letters at columns [R, k] likely."""
        table = self.ops.constant(np.eye(VOCAB_SIZE, dtype=np.float32) * 6, "float")
        last = self.ops.shape(stories)[1] - 1
        letters = self.ops.take_along(stories, self.ops.minimum(columns, last))
        logits = self.ops.take(table, letters)  # [R, k, V]
        return Outputs(logits if columns.shape[1] > 1 else logits[:, 0])

    def prefill(self) -> tuple[Outputs, Any]:
        self.calls += 1
        stories = self.ops.constant(self.stories, "int")
        columns = self.ops.full((len(self.stories), 1), self.prompt_length, "int")
        return self._outputs(stories, columns), stories

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        self.calls += 1
        self.seen.append(np.asarray(request.tokens).reshape(-1).tolist())
        return self._outputs(cache, columns_of(self.ops, request) + 1), cache

    def reorder(self, cache: Any, parents: Any) -> Any:
        return self.ops.take(cache, parents)

    expand = reorder


class MarkovEngine:
    """A random language: the next token depends on the last one and on the sum of those before.

    The cache is the text, int [R, N], so that rows that are reordered wrongly go on wrongly.
    """

    columns = 96  # N

    def __init__(self, ops: Ops, prompt: np.ndarray, vocab_size: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.ops = ops
        self.prompt = prompt
        self.table = generator.normal(0, 2, (vocab_size, vocab_size)).astype(np.float32)
        self.moods = generator.normal(0, 1, (5, vocab_size)).astype(np.float32)

    def _outputs(self, text: Any, columns: Any) -> Outputs:
        """Return the outputs after the tokens at columns [R, k]."""
        table, moods = (self.ops.constant(array, "float") for array in (self.table, self.moods))
        before = self.ops.arange(self.columns)[None, None, :] <= columns[:, :, None]
        sums = self.ops.sum(self.ops.where(before, text[:, None, :], 0), axis=-1)
        tokens = self.ops.take_along(text, columns)
        logits = self.ops.take(table, tokens) + self.ops.take(moods, sums % 5)  # [R, k, V]
        return Outputs(logits if columns.shape[1] > 1 else logits[:, 0])

    def prefill(self) -> tuple[Outputs, Any]:
        rows, width = self.prompt.shape
        text = np.zeros((rows, self.columns), np.int32)
        text[:, :width] = self.prompt
        text = self.ops.constant(text, "int")
        return self._outputs(text, self.ops.full((rows, 1), width - 1, "int")), text

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        columns = columns_of(self.ops, request)
        offset = self.ops.arange(self.columns)[None, :] - columns[:, :1]
        count = columns.shape[1]
        index = self.ops.minimum(self.ops.maximum(offset, 0), count - 1)
        is_new = (offset >= 0) & (offset < count)
        text = self.ops.where(is_new, self.ops.take_along(request.tokens, index), cache)
        return self._outputs(text, columns), text

    def reorder(self, cache: Any, parents: Any) -> Any:
        return self.ops.take(cache, parents)

    expand = reorder

    def log_probability(self, prompt: list[int], continuation: list[int]) -> float:
        """Return the log-probability of a continuation, computed plainly in float64."""
        text, total = list(prompt), 0.0
        for token in continuation:
            logits = (self.table[text[-1]] + self.moods[sum(text) % 5]).astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            text.append(token)
        return total
