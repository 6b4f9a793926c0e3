"""Flax's part in batching: see `gpt2x.batching.slots`.

B the texts that run, N the rows that are run, S the columns, H heads, D head_dim, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2x.batching.choice import LogProbabilities, TextValues, Variant, choose, log_probabilities
from gpt2x.batching.slots import PIECE, as_log_probabilities, enough, padded, sizes
from gpt2x.batching.warming import warm_up
from gpt2x.flax.cache import KVCache
from gpt2x.flax.cpu.products import attention_dtype
from gpt2x.flax.engine import in_compute_dtype
from gpt2x.flax.ops import JAX_OPS as OPS
from gpt2x.generation.engine import Prompt, placed
from gpt2x.models.cache import each

# Texts have neither padding nor positions of their own.
_PLAIN = Prompt((), (), 0, 0, {}, {}, ())


class Slots:
    """R rows of a cache for a Flax model; see `gpt2x.batching.slots.Slots`.

    Functions are compiled for a few numbers of rows and of columns, `sizes`. The rows that are run
    share a cache, `_shared`, of the smallest size that is enough. Each other row is a cache of its
    own, and so is the one whose prompt is run.
    """

    def __init__(self, model: Any, rows: int, shared: Path | None = None) -> None:
        self.rows = rows
        self.columns = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._model = in_compute_dtype(model)
        self._row_sizes, self._column_sizes = sizes(rows, 1), sizes(self.columns, 256)
        self._widths = sizes(min(PIECE, self.columns), 16)
        # Of each row its own cache; None if it is in the one that is shared.
        self._own: list[KVCache | None] = [self._empty(1, self.columns) for _ in range(rows)]
        self._shared = self._empty(1, self._column_sizes[0])

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> Array:
        last = len(tokens) - 1
        width = self._widths[-1] if every else enough(self._widths, len(tokens))
        ids = padded(tokens, width)[None, :]
        cache = self._alone(row)
        logits, cache = run_piece(self._model, cache, ids, np.int32(start), last, every=every)
        self._own[row] = cache
        return logits

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> Array:
        count = len(tokens)
        rows = enough(self._row_sizes, count)
        columns = enough(self._column_sizes, int(starts.max()) + 1)
        if (self._shared.batch_size, self._shared.max_length) != (rows, columns):
            self._own = [self._alone(row) for row in range(self.rows)]
            self._shared = self._empty(rows, columns)
        for row, cache in enumerate(self._own[:count]):
            if cache is not None:
                self._shared = put_row(self._shared, cache, np.int32(row))
                self._own[row] = None
        # What is written beyond the last column is dropped: other rows stay as they are.
        columns_of_rows = padded(starts, rows, fill=columns)
        ids = padded(tokens, rows)[:, None]
        logits, self._shared = run_step(self._model, self._shared, ids, columns_of_rows)
        return logits

    def logits_at(self, logits: Array, number: int) -> Array:
        return take_logits(logits, np.int32(number))

    def choose(
        self, logits: Array, values: TextValues, variant: Variant
    ) -> tuple[np.ndarray, np.ndarray]:
        count, rows = len(values.counts), logits.shape[0]
        values = jax.tree.map(lambda array: padded(array, rows), values)
        found = jax.device_get(run_choice(logits, values, variant))
        return found[0][:count], found[1][:count]

    def log_probabilities(self, logits: Array, tokens: np.ndarray) -> list[LogProbabilities]:
        found = jax.device_get(run_log_probabilities(logits, padded(tokens, logits.shape[0])))
        return as_log_probabilities(*(array[: len(tokens)] for array in found))

    def swap(self, row: int, other: int, length: int) -> None:
        self._own[row], self._own[other] = self._alone(other), self._alone(row)

    def copy(self, row: int, other: int, length: int) -> None:
        cache = self._own[row]
        self._own[other] = self._alone(row) if cache is None else jax.tree.map(jnp.copy, cache)

    def warm_up(self) -> None:
        warm_up(self, self._widths, self._row_sizes, self._column_sizes)

    def _alone(self, row: int) -> KVCache:
        """Return a row in a cache of its own; a row that is shared is copied."""
        cache = self._own[row]
        return take_row(self._shared, np.int32(row), self.columns) if cache is None else cache

    def _empty(self, rows: int, columns: int) -> KVCache:
        dtype = attention_dtype(self._model.dtype, rows)
        return KVCache.create(self._model.config, rows, columns, dtype)


@partial(jax.jit, static_argnames="every", donate_argnames="cache")
def run_piece(
    model: Any, cache: KVCache, ids: Array, start: Array, last: Array, *, every: bool
) -> tuple[Array, KVCache]:
    """Run tokens [1, W] of one text from a column on; return the logits after the one at `last`.

    With `every` those after each of them.
    """
    kept = {} if every else {"logits_to_keep": jnp.reshape(last, (1,))}
    logits, cache = _run(model, cache, ids, jnp.reshape(start, (1,)), **kept)
    return logits[0], cache


@partial(jax.jit, donate_argnames="cache")
def run_step(model: Any, cache: KVCache, ids: Array, starts: Array) -> tuple[Array, KVCache]:
    """Run a token [N, 1] of each row at columns of their own; return the logits [N, V]."""
    logits, cache = _run(model, cache, ids, starts)
    return logits[:, 0], cache


def _run(
    model: Any, cache: KVCache, ids: Array, starts: Array, **options: Any
) -> tuple[Array, KVCache]:
    count = ids.shape[1]
    columns = placed(
        OPS, _PLAIN, starts, count, cache.max_length, model.config.n_positions, siblings=False
    )
    outputs = model(
        input_ids=ids,
        **columns,
        past_key_values=cache.at(starts),
        use_cache=True,
        return_dict=True,
        train=False,
        **options,
    )
    return outputs.logits.astype(jnp.float32), outputs.past_key_values.at(0)


@jax.jit
def run_choice(logits: Array, values: TextValues, variant: Variant) -> tuple[Array, Array]:
    """Run `choice.choose`."""
    return choose(OPS, logits, values, variant)


@jax.jit
def run_log_probabilities(logits: Array, tokens: Array) -> tuple[Array, Array, Array]:
    """Run `choice.log_probabilities`."""
    return log_probabilities(OPS, logits, tokens)


@jax.jit
def take_logits(logits: Array, number: Array) -> Array:
    """Return one row of logits, [1, V]."""
    return lax.dynamic_slice_in_dim(logits, number, 1, axis=0)


@partial(jax.jit, static_argnums=2)
def take_row(cache: KVCache, row: Array, columns: int) -> KVCache:
    """Return a row of a cache in one of its own, with so many columns."""

    def taken(buffer: Array) -> Array:
        alone = lax.dynamic_slice_in_dim(buffer, row, 1, axis=0)
        return jnp.pad(alone, [(0, 0), (0, 0), (0, columns - buffer.shape[2]), (0, 0)])

    keys, values = each(taken, cache.keys), each(taken, cache.values)
    return KVCache(keys, values, jnp.zeros((), jnp.int32)).folded()


@partial(jax.jit, donate_argnums=0)
def put_row(cache: KVCache, alone: KVCache, row: Array) -> KVCache:
    """Return a cache with a row from one of its own, which may have more columns."""

    def put(buffer: Array, new: Array) -> Array:
        new = new[:, :, : buffer.shape[2]].astype(buffer.dtype)
        return lax.dynamic_update_slice_in_dim(buffer, new, row, axis=0)

    keys = list(map(put, cache.keys, alone.keys))
    values = list(map(put, cache.values, alone.values))
    return KVCache(keys, values, jnp.zeros((), jnp.int32)).folded()
