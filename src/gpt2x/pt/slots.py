"""PyTorch's part in batching: see `gpt2x.batching.slots`.

B the texts that run, S columns of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2x.batching.choice import LogProbabilities, TextValues, Variant, choose, log_probabilities
from gpt2x.batching.slots import PIECE, as_log_probabilities
from gpt2x.batching.warming import warm_up
from gpt2x.generation.engine import Prompt
from gpt2x.generation.strategies import Needs
from gpt2x.pt.cache import KVCache
from gpt2x.pt.cpu.copies import Copies, copied_weights
from gpt2x.pt.engine import run_placed
from gpt2x.pt.ops import torch_ops
from gpt2x.pt.shared_weights import share

# Texts have neither padding nor positions of their own.
_PLAIN = Prompt((), (), 0, 0, {}, {}, ())
_OPTIONS = {"use_cache": True, "logits_to_keep": 1, "return_dict": True}


class Slots:
    """R rows of a cache for a PyTorch model; see `gpt2x.batching.slots.Slots`.

    No shape is compiled: a step runs the rows that are in use, as far as the longest text.
    """

    def __init__(self, model: Any, rows: int, shared: Path | None = None) -> None:
        self.rows = rows
        self.columns = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._model = model
        self._ops = torch_ops(model.device)
        weight = model.get_input_embeddings().weight
        self._cache = KVCache.create(model.config, rows, self.columns, weight.dtype, weight.device)
        self._copies: Copies = {}
        self._folder = shared if weight.device.type == "cpu" else None
        if self._folder is not None:
            share(model.parameters(), self._folder / "weights")

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> Tensor:
        cache = self._part(row, row + 1).at(start)
        options = {**_OPTIONS, "logits_to_keep": len(tokens) if every else 1}
        with self._running():
            ids = self._tensor(tokens)[None, :]
            output = self._model(input_ids=ids, past_key_values=cache, **options)
        return output.logits[0].float()

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> Tensor:
        ids, cache = self._tensor(tokens)[:, None], self._part(0, len(tokens))
        first = int(starts[0])
        with self._running():
            if (starts == first).all():  # no row has to be masked
                output = self._model(input_ids=ids, past_key_values=cache.at(first), **_OPTIONS)
                return output.logits[:, 0].float()
            cache = cache.at(self._tensor(starts))
            inputs = {"input_ids": ids}
            outputs, _ = run_placed(self._model, Needs(), _OPTIONS, _PLAIN, inputs, cache)
        return outputs.logits

    def logits_at(self, logits: Tensor, number: int) -> Tensor:
        return logits[number : number + 1]

    def choose(
        self, logits: Tensor, values: TextValues, variant: Variant
    ) -> tuple[np.ndarray, np.ndarray]:
        arrays = (value if isinstance(value, tuple) else self._tensor(value) for value in values)
        tokens, is_sound = choose(self._ops, logits, TextValues(*arrays), variant)
        return tokens.cpu().numpy().astype(np.int32), is_sound.cpu().numpy()

    def log_probabilities(self, logits: Tensor, tokens: np.ndarray) -> list[LogProbabilities]:
        found = log_probabilities(self._ops, logits[: len(tokens)], self._tensor(tokens))
        return as_log_probabilities(*(array.cpu().numpy() for array in found))

    def swap(self, row: int, other: int, length: int) -> None:
        for buffer in self._buffers():
            pair = buffer[[other, row], :, :length]
            buffer[[row, other], :, :length] = pair

    def copy(self, row: int, other: int, length: int) -> None:
        for buffer in self._buffers():
            buffer[other, :, :length] = buffer[row, :, :length]

    def warm_up(self) -> None:
        # Weights are copied to the layout that products read quickest when they are first used.
        warm_up(self, (min(PIECE, self.columns),), (1, self.rows), (1,))
        if self._folder is not None:
            share((copy for _, _, copy in self._copies.values()), self._folder / "copies")

    def _buffers(self) -> list[Tensor]:
        return [*self._cache.keys, *self._cache.values]

    def _part(self, start: int, stop: int) -> KVCache:
        """Return a cache that shares the memory of some rows."""
        keys = [buffer[start:stop] for buffer in self._cache.keys]
        return KVCache(keys, [buffer[start:stop] for buffer in self._cache.values])

    def _tensor(self, array: np.ndarray) -> Tensor:
        if array.dtype == np.uint32:  # random words
            array = array.view(np.int32)
            return torch.from_numpy(array).to(self._model.device)
        tensor = torch.from_numpy(array)
        return tensor.to(self._model.device, torch.int64 if array.dtype == np.int32 else None)

    @contextmanager
    def _running(self) -> Iterator[None]:
        with torch.no_grad(), copied_weights(True, self._copies):
            yield
