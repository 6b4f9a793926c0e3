"""Streaming in a backend: the tokens of the text, however many are computed at once.

A backend's `tests/.../test_generation.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.generation import generate as recipe
from support.contract.backend import Backend, assert_close, random_ids
from support.recorder import Recorder

PROMPTS = random_ids(2, 5)
OPTIONS = {
    "do_sample": True,
    "num_return_sequences": 2,
    "max_new_tokens": 9,
    "return_dict_in_generate": True,
    "output_scores": True,
}


class StreamingContract:
    """Chunks change no text."""

    backend: Backend

    @pytest.fixture
    def model(self, monkeypatch: Any) -> Any:
        monkeypatch.setattr(recipe, "QUICK", np.inf)  # chunks grow on any machine
        return self.backend.model(n_layer=1, eos_token_id=None)

    def steps(self, model: Any, chunk: int, host: Any = None, **options: Any) -> Any:
        kwargs = {"input_ids": self.backend.tensor(PROMPTS), **OPTIONS, **options}
        host = model.generation_host() if host is None else host
        return recipe.steps(host, chunk=chunk, seed=3, kwargs=kwargs)

    def test_chunks_have_the_tokens_and_the_result_of_the_text(self, model):
        whole = model.generate(self.backend.tensor(PROMPTS), seed=3, **OPTIONS)
        text = self.backend.array(whole.sequences)
        assert len({tuple(row) for row in text.tolist()}) == 4
        for chunk in (1, 4):
            tokens = self.steps(model, chunk)
            for column in text[:, 5:].T:
                np.testing.assert_array_equal(next(tokens), column)
            with pytest.raises(StopIteration) as end:
                next(tokens)
            output = end.value.value
            np.testing.assert_array_equal(self.backend.array(output.sequences), text)
            for found, expected in zip(output.scores, whole.scores, strict=True):
                assert_close(self.backend.array(found), self.backend.array(expected))
            past, expected = output.past_key_values, whole.past_key_values
            assert past.length == expected.length
            assert_close(self.backend.array(past[0][0]), self.backend.array(expected[0][0]))

    def test_a_reader_may_stop(self, model):
        tokens = self.steps(model, chunk=4)
        first = [next(tokens) for _ in range(4)]
        tokens.close()
        recorder = Recorder()
        model.generate(self.backend.tensor(PROMPTS), seed=3, streamer=recorder, **OPTIONS)
        np.testing.assert_array_equal(np.stack(recorder.values[1:5]), np.stack(first))
