"""What a backend's engine does with requests of several tokens, which a plain forward tells.

A backend's `tests/.../test_engine.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.generation.generate import prepare
from gpt2x.generation.strategies import Needs, Request
from support.contract.backend import Backend, assert_close, random_ids

PROMPT = random_ids(2, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5])
FIRST, SECOND = random_ids(2, 3, seed=1), random_ids(2, 3, seed=2)


class EngineContract:
    """Tokens at columns of their own in each row, and what a strategy may ask for beside logits."""

    backend: Backend

    def engine(self, needs: Needs, **kwargs: Any) -> Any:
        """Return the engine of a padded prompt, with room for six more tokens."""
        host = self.backend.model().generation_host()
        given = {"input_ids": PROMPT, "attention_mask": MASK, **kwargs}
        given = {name: self.backend.tensor(value) for name, value in given.items()}
        run = prepare(host, kwargs={**given, "max_new_tokens": 7})
        self.ops = host.ops
        return host.stepper(run.plan, run.static._replace(needs=needs), run.prompts)[0]

    def decode(self, engine: Any, tokens: Any, starts: Any, cache: Any) -> tuple[Any, Any]:
        column = self.ops.constant(starts, "int") if isinstance(starts, list) else starts
        request = Request(self.ops.constant(tokens, "int"), column)
        outputs, cache = engine.decode(request, cache)
        return outputs, cache

    def plain(self, text: list[int]) -> Any:
        """Return what a plain forward of one text without padding returns."""
        return self.backend.call(self.backend.model(), np.array([text]), output_hidden_states=True)

    def assert_close(self, found: Any, expected: Any) -> None:
        assert_close(self.backend.array(found), self.backend.array(expected))

    def text(self, row: int, *more: int) -> list[int]:
        return [*PROMPT[row, MASK[row] == 1].tolist(), *more]

    def test_rows_go_on_from_columns_of_their_own(self):
        engine = self.engine(Needs(columns=3))
        _, cache = engine.prefill()
        outputs, cache = self.decode(engine, FIRST, 5, cache)
        for row in range(2):
            expected = self.plain(self.text(row, *FIRST[row])).logits
            assert_close(
                self.backend.array(outputs.logits)[row], self.backend.array(expected)[0, -3:]
            )
        # Row 0 keeps one of its tokens, row 1 all three; the last column has no position left.
        outputs, cache = self.decode(engine, SECOND, [6, 8], cache)
        for row, kept in enumerate((1, 3)):
            expected = self.plain(self.text(row, *FIRST[row, :kept], *SECOND[row])).logits
            assert_close(
                self.backend.array(outputs.logits)[row], self.backend.array(expected)[0, -3:]
            )

    def test_one_token_a_row_at_columns_of_their_own(self):
        engine = self.engine(Needs())
        _, cache = engine.prefill()
        _, cache = self.decode(engine, FIRST, [5, 5], cache)
        outputs, _ = self.decode(engine, SECOND[:, :1], [6, 7], cache)
        for row, kept in enumerate((1, 2)):
            expected = self.plain(self.text(row, *FIRST[row, :kept], SECOND[row, 0])).logits
            assert_close(
                self.backend.array(outputs.logits)[row], self.backend.array(expected)[0, -1]
            )

    def test_siblings_see_the_text_and_the_first_token(self):
        engine = self.engine(Needs(columns=3, siblings=True, hidden_states=True))
        outputs, cache = engine.prefill()
        states = self.backend.array(outputs.hidden_states)
        expected = self.plain(self.text(1)).hidden_states[-1]
        assert_close(states[1, :5], self.backend.array(expected)[0])
        outputs, _ = self.decode(engine, FIRST, 5, cache)
        for row in range(2):
            for sibling in (1, 2):
                plain = self.plain(self.text(row, FIRST[row, 0], FIRST[row, sibling]))
                logits = self.backend.array(outputs.logits)[row, sibling]
                assert_close(logits, self.backend.array(plain.logits)[0, -1])
                states = self.backend.array(outputs.hidden_states)[row, sibling]
                assert_close(states, self.backend.array(plain.hidden_states[-1])[0, -1])

    @pytest.mark.parametrize("step", ["prompt", "token"])
    def test_logits_of_earlier_layers(self, step):
        engine = self.engine(Needs(layers=(0, 2)))
        outputs, cache = engine.prefill()
        more = ()
        if step == "token":
            outputs, _ = self.decode(engine, FIRST[:, :1], 5, cache)
            more = (FIRST[1, 0],)
        found = self.backend.array(outputs.layer_logits)[1]
        assert_close(found[1], self.backend.array(outputs.logits)[1])  # the last layer's output
        embedding = self.backend.model().get_input_embeddings()
        names = ("weight", "embeddings", "embedding")
        table = next(getattr(embedding, name) for name in names if hasattr(embedding, name))
        state = self.plain(self.text(1, *more)).hidden_states[0]
        table, state = (self.backend.array(x[...]) for x in (table, state))
        assert_close(found[0], table @ state[0, -1])
