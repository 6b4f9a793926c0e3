"""The watermark of a text: some tokens are green, and written more often than by chance.

Source: transformers 4.57, `WatermarkLogitsProcessor`; arXiv:2301.10226 and arXiv:2306.04634.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x.config.watermarking import WatermarkingConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.permutation import is_among_first, permutation
from gpt2x.generation.processors.base import BuiltInProcessor, Context, Static, Values

# The likeliest tokens among which "selfhash" looks for green ones.
CANDIDATES = 40
# A prime: the size of the table with which "selfhash" mixes tokens.
TABLE_SIZE = 1_000_003


@dataclass(frozen=True)
class GreenLists:
    """Which tokens are green after which others; hashable.

    vocab_size: V.
    size: number of green tokens.
    hashing_key, selfhash, context_width: see `WatermarkingConfig`.
    """

    vocab_size: int
    size: int
    hashing_key: int
    selfhash: bool
    context_width: int

    @classmethod
    def of(cls, config: WatermarkingConfig, vocab_size: int) -> GreenLists:
        config.validate()
        return cls(
            vocab_size=vocab_size,
            size=int(vocab_size * config.greenlist_ratio),
            hashing_key=config.hashing_key,
            selfhash=config.seeding_scheme == "selfhash",
            context_width=config.context_width,
        )

    def after(self, token: int) -> np.ndarray:
        """Return which tokens are green after `token`, by "lefthash": bool [V], read-only."""
        return _green_tokens(_word(self.hashing_key * token), self.vocab_size, self.size)

    def has(self, context: np.ndarray, token: int) -> bool:
        """Whether `token` is green after `context` (int [N]; the last tokens count)."""
        if not self.selfhash:
            seed = self.hashing_key * int(context[-1])
        else:
            seed = self._mixed(np.append(context, token)[-self.context_width :])
        return _is_green(_word(seed), self.vocab_size, self.size, int(token))

    def _mixed(self, tokens: np.ndarray) -> int:
        """Return the seed for the last of `tokens`, int64 [context_width], by "selfhash"."""
        numbers = _table(self.hashing_key % 2**32)[tokens % TABLE_SIZE] + 1
        key = np.array(self.hashing_key % 2**64, np.uint64).astype(np.int64)
        return int((key * numbers * numbers[-1:]).min())  # products wrap around, as PyTorch's do


class WatermarkLogitsProcessor(BuiltInProcessor):
    """Add `bias` to the scores of green tokens, for a `WatermarkDetector` to find.

    With "lefthash", the tokens that are green follow from the last one. With "selfhash", each of
    the 40 likeliest tokens is looked up by itself, together with the ones before it. A row with
    fewer than `context_width` tokens of text stays as it is.

    It runs on the host: the lists are those of PyTorch's random generator, whose steps follow one
    another and cannot be compiled into a loop over arrays. They are kept by seed, so that a list
    that was drawn before costs nothing.

    greenlist_size, hash_key: as attributes, the number of green tokens and the hashing key.
    device: has no effect.

    Raises:
        InvalidInputError: if an option cannot be used (see `WatermarkingConfig`), or the scores
            have fewer columns than `vocab_size`.
    """

    host = True

    def __init__(
        self,
        vocab_size: int,
        device: Any = None,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        config = WatermarkingConfig(
            greenlist_ratio, bias, hashing_key, seeding_scheme, context_width
        )
        self.lists = GreenLists.of(config, vocab_size)
        self.vocab_size = vocab_size
        self.greenlist_size = self.lists.size
        self.bias = bias
        self.hash_key = hashing_key
        self.seeding_scheme = seeding_scheme
        self.context_width = context_width

    @property
    def static(self) -> Static:
        return (self.lists,)

    @property
    def values(self) -> Values:
        return {"bias": float(self.bias)}

    @staticmethod
    def apply(ops: Ops, scores: Array, context: Context, static: Static, values: Values) -> Array:
        lists: GreenLists = static[0]
        green = np.zeros(ops.shape(scores), np.bool_)
        if green.shape[1] < lists.vocab_size:
            raise InvalidInputError(
                f"The watermark is one for a vocabulary of {lists.vocab_size} tokens, but the "
                f"scores have {green.shape[1]} columns."
            )
        tokens, is_text = map(ops.to_numpy, context.last(ops, lists.context_width))
        rows = np.flatnonzero(is_text.all(axis=1))
        if not lists.selfhash:
            for row in rows:
                green[row, : lists.vocab_size] = lists.after(int(tokens[row, -1]))
        else:
            _, best = ops.top_k(scores, min(CANDIDATES, green.shape[1]))  # int [R, C]
            best = ops.to_numpy(best)
            for row in rows:
                green[row, best[row]] = [lists.has(tokens[row], token) for token in best[row]]
        return ops.where(ops.constant(green, "bool"), scores + values["bias"], scores)


def _word(seed: int) -> int:
    """Return what PyTorch's generator takes of a seed that is given to it modulo 2**64 - 1."""
    return seed % (2**64 - 1) % 2**32


@functools.lru_cache(maxsize=256)
def _green_tokens(seed: int, vocab_size: int, size: int) -> np.ndarray:
    green = np.zeros(vocab_size, np.bool_)
    green[permutation(seed, vocab_size, size)] = True
    green.flags.writeable = False
    return green


@functools.lru_cache(maxsize=2**16)
def _is_green(seed: int, vocab_size: int, size: int, token: int) -> bool:
    return is_among_first(seed, vocab_size, size, token)


@functools.lru_cache(maxsize=2)
def _table(seed: int) -> np.ndarray:
    return permutation(seed, TABLE_SIZE, TABLE_SIZE)
