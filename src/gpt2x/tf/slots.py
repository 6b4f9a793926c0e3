"""TensorFlow's part in batching: see `gpt2x.batching.slots`.

B the texts that run, N the rows that are run, S the columns, H heads, D head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.batching.choice import LogProbabilities, TextValues, Variant, choose, log_probabilities
from gpt2x.batching.slots import PIECE, as_log_probabilities, enough, padded, sizes
from gpt2x.batching.warming import warm_up
from gpt2x.generation.engine import Prompt, placed
from gpt2x.tf.cache import KVCache
from gpt2x.tf.ops import TENSORFLOW_OPS as OPS

# Texts have neither padding nor positions of their own.
_PLAIN = Prompt((), (), 0, 0, {}, {}, ())


class Slots:
    """R rows of a cache for a TensorFlow model; see `gpt2x.batching.slots.Slots`.

    Functions are compiled for a few numbers of rows and of columns, `sizes`. The rows that are run
    share variables, `_shared`, of the smallest size that is enough. Each other row is a cache of
    its own, and so is the one whose prompt is run.
    """

    def __init__(self, model: Any, rows: int, shared: Path | None = None) -> None:
        self.rows = rows
        self.columns = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._model = model
        self._row_sizes, self._column_sizes = sizes(rows, 1), sizes(self.columns, 256)
        self._widths = sizes(min(PIECE, self.columns), 16)
        # Of each row its own cache; None if it is in the one that is shared.
        self._own: list[KVCache | None] = [self._empty(1, self.columns)] * rows
        self._made: dict[tuple[int, int], _Shared] = {}
        self._shared = self._of_size(1, self._column_sizes[0])
        self._piece = compiled(self._run_piece)
        self._choose = compiled(run_choice)
        self._log_probabilities = compiled(run_log_probabilities)

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> tf.Tensor:
        last = len(tokens) - 1
        width = self._widths[-1] if every else enough(self._widths, len(tokens))
        ids = tf.constant(padded(tokens, width)[None, :])
        cache = self._alone(row)
        place = tf.constant([start], tf.int32), tf.constant(last, tf.int32)
        logits, self._own[row] = self._piece(cache, ids, *place, every)
        return logits

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> tf.Tensor:
        count = len(tokens)
        rows = enough(self._row_sizes, count)
        columns = enough(self._column_sizes, int(starts.max()) + 1)
        if self._shared.size != (rows, columns):
            self._own = [self._alone(row) for row in range(self.rows)]
            self._shared = self._of_size(rows, columns)
        for row, cache in enumerate(self._own[:count]):
            if cache is not None:
                self._shared.put(row, cache)
                self._own[row] = None
        ids = tf.constant(padded(tokens, rows)[:, None])
        # What is written beyond the last column is dropped: other rows stay as they are.
        return self._shared.step(ids, tf.constant(padded(starts, rows, fill=columns)))

    def logits_at(self, logits: tf.Tensor, number: int) -> tf.Tensor:
        return logits[number : number + 1]

    def choose(
        self, logits: tf.Tensor, values: TextValues, variant: Variant
    ) -> tuple[np.ndarray, np.ndarray]:
        count, rows = len(values.counts), logits.shape[0]
        values = tf.nest.map_structure(lambda array: tf.constant(padded(array, rows)), values)
        tokens, is_sound = self._choose(logits, values, tf.nest.map_structure(tf.constant, variant))
        return tokens.numpy()[:count], is_sound.numpy()[:count]

    def log_probabilities(self, logits: tf.Tensor, tokens: np.ndarray) -> list[LogProbabilities]:
        found = self._log_probabilities(logits, tf.constant(padded(tokens, logits.shape[0])))
        return as_log_probabilities(*(array.numpy()[: len(tokens)] for array in found))

    def swap(self, row: int, other: int, length: int) -> None:
        self._own[row], self._own[other] = self._alone(other), self._alone(row)

    def copy(self, row: int, other: int, length: int) -> None:
        self._own[other] = self._alone(row)

    def warm_up(self) -> None:
        warm_up(self, self._widths, self._row_sizes, self._column_sizes)

    def _alone(self, row: int) -> KVCache:
        """Return a row in a cache of its own; a row that is shared is copied."""
        cache = self._own[row]
        return self._shared.taken(row, self.columns) if cache is None else cache

    def _empty(self, rows: int, columns: int) -> KVCache:
        dtype = self._model.get_input_embeddings().compute_dtype
        return KVCache.create(self._model.config, rows, columns, dtype)

    def _of_size(self, rows: int, columns: int) -> _Shared:
        size = rows, columns
        if size not in self._made:
            self._made[size] = _Shared(self._model, self._empty(*size))
        return self._made[size]

    def _run_piece(
        self, cache: KVCache, ids: tf.Tensor, starts: tf.Tensor, last: tf.Tensor, every: bool
    ) -> tuple[tf.Tensor, KVCache]:
        """Run tokens [1, W] of one text; return the logits after the one at `last`, or all."""
        kept = {} if every else {"logits_to_keep": tf.reshape(last, [1])}
        logits, cache = _run(self._model, cache, ids, starts, **kept)
        return logits[0], cache


class _Shared:
    """A cache of N rows in variables, which a compiled step changes where they are."""

    def __init__(self, model: Any, cache: KVCache) -> None:
        self.size = cache.batch_size, cache.max_length
        self._model = model
        self._keys = [tf.Variable(buffer, trainable=False) for buffer in cache.keys]
        self._values = [tf.Variable(buffer, trainable=False) for buffer in cache.values]
        self.step = compiled(self._run_step)

    def _run_step(self, ids: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """Run a token [N, 1] of each row at columns of their own; return the logits [N, V]."""
        buffers = [variable.value() for variable in (*self._keys, *self._values)]
        layers = len(self._keys)
        cache = KVCache(buffers[:layers], buffers[layers:], tf.constant(0, tf.int32))
        logits, cache = _run(self._model, cache, ids, starts)
        for variable, new in zip(self._keys, cache.keys, strict=True):
            variable.assign(new)
        for variable, new in zip(self._values, cache.values, strict=True):
            variable.assign(new)
        return logits[:, 0]

    def put(self, row: int, cache: KVCache) -> None:
        """Let a row be that of a cache of its own, which may have more columns."""
        columns = self.size[1]
        for variables, buffers in ((self._keys, cache.keys), (self._values, cache.values)):
            for variable, buffer in zip(variables, buffers, strict=True):
                variable[row].assign(buffer[0, :, :columns])

    def taken(self, row: int, columns: int) -> KVCache:
        """Return a row in a cache of its own, with so many columns."""
        room = [[0, 0], [0, 0], [0, columns - self.size[1]], [0, 0]]
        keys = [tf.pad(variable[row : row + 1], room) for variable in self._keys]
        values = [tf.pad(variable[row : row + 1], room) for variable in self._values]
        return KVCache(keys, values, tf.constant(0, tf.int32))


def _run(
    model: Any, cache: KVCache, ids: tf.Tensor, starts: tf.Tensor, **options: Any
) -> tuple[tf.Tensor, KVCache]:
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
        **options,
    )
    return tf.cast(outputs.logits, tf.float32), outputs.past_key_values.at(0)


def run_choice(
    logits: tf.Tensor, values: TextValues, variant: Variant
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run `choice.choose`."""
    return choose(OPS, logits, values, variant)


def run_log_probabilities(
    logits: tf.Tensor, tokens: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run `choice.log_probabilities`."""
    return log_probabilities(OPS, logits, tokens)


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function that XLA compiles for each shape of its arguments."""
    return tf.function(function, jit_compile=True, autograph=False)
