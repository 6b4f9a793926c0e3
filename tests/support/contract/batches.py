"""Calls of `generate` in parts, in a backend: the results of one call.

A backend's `tests/.../test_batches.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.contract.backend import Backend, assert_close, random_ids

PROMPTS = random_ids(5, 6) % 50 + 10
PROMPTS[:, :3] = [11, 12, 13]  # what a cache holds
MASK = np.ones_like(PROMPTS)
PADDED, PADDED_MASK = PROMPTS.copy(), MASK.copy()
PADDED[1, :4], PADDED_MASK[1, :4] = 0, 0
PADDED[4, :1], PADDED_MASK[4, :1] = 0, 0
SAMPLING = {"do_sample": True, "top_k": 8, "seed": 3}
BEAMS = {**SAMPLING, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": None}
SCORES = {"return_dict_in_generate": True, "output_scores": True}


class BatchesContract:
    """Five prompts in parts of two."""

    backend: Backend

    @pytest.fixture
    def model(self) -> Any:
        # Large weights, so that texts differ, and some end.
        return self.backend.model(initializer_range=0.4, eos_token_id=9, n_layer=1)

    def write(self, model: Any, ids: np.ndarray, mask: np.ndarray, **options: Any) -> Any:
        given = {"attention_mask": mask, "max_new_tokens": 8, "pad_token_id": 0, **options}
        arrays = {
            name: self.backend.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in given.items()
        }
        return model.generate(self.backend.tensor(ids), **arrays)

    def texts(self, model: Any, *arguments: Any, **options: Any) -> np.ndarray:
        return self.backend.array(self.write(model, *arguments, **options))

    def test_beams_of_a_padded_batch_with_scores(self, model):
        options = {**BEAMS, **SCORES, "token_type_ids": PADDED % 3}
        whole = self.write(model, PADDED, PADDED_MASK, **options)
        parts = self.write(model, PADDED, PADDED_MASK, **options, batch_size=2)
        assert type(parts) is type(whole)
        assert parts.past_key_values is None
        for name in ("sequences", "beam_indices"):
            found, expected = (self.backend.array(output[name]) for output in (parts, whole))
            np.testing.assert_array_equal(found, expected)
        assert len(parts.scores) == len(whole.scores) == 8
        for found, expected in zip(parts.scores, whole.scores, strict=True):
            assert_close(self.backend.array(found), self.backend.array(expected))
        transitions = [
            self.backend.array(
                model.compute_transition_scores(x.sequences, x.scores, x.beam_indices)
            )
            for x in (parts, whole)
        ]
        assert_close(*transitions)

    def test_rows_with_or_without_a_cache(self, model):
        whole = self.texts(model, PROMPTS, MASK, **SAMPLING)
        assert len({tuple(row) for row in whole.tolist()}) == 5
        parts = self.texts(model, PROMPTS, MASK, **SAMPLING, batch_size=2)
        np.testing.assert_array_equal(parts, whole)
        for rows in (1, 5):
            past = model.prefill(self.backend.tensor(PROMPTS[:rows, :3]))
            options = {**SAMPLING, "past_key_values": past, "batch_size": 2}
            np.testing.assert_array_equal(self.texts(model, PROMPTS, MASK, **options), whole)
            assert (past.batch_size, past.length) == (rows, 3)

    def test_the_host_knows_sizes(self, model):
        host = model.generation_host()
        assert host.itemsize == 4
        assert host.available_memory() is None or host.available_memory() > 2**20
