"""What the models compute in every backend, seen from outside: embeddings, order, ties, limits.

A backend's `tests/.../test_model.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend, assert_close, random_ids

IDS = random_ids(2, 6)


class ModelContract:
    """One forward pass, from what comes in to what goes out."""

    backend: Backend

    def body(self, **inputs) -> np.ndarray:
        """Return the last hidden states of a body whose weights are the language model's."""
        return self.backend.array(
            self.backend.call(self.backend.model("Model"), **inputs).last_hidden_state
        )

    def embeddings(self, ids: np.ndarray) -> np.ndarray:
        layer = self.backend.model("Model").get_input_embeddings()
        return self.backend.array(layer(self.backend.tensor(ids)))

    def test_embeddings_say_what_their_ids_say(self):
        embedded = self.embeddings(IDS)
        assert_close(self.body(inputs_embeds=embedded), self.body(input_ids=IDS))

    def test_token_types_are_embedded_as_tokens(self):
        types = random_ids(2, 6, seed=3)
        summed = self.embeddings(IDS) + self.embeddings(types)
        typed = self.body(input_ids=IDS, token_type_ids=types)
        assert_close(typed, self.body(inputs_embeds=summed))

    def test_positions_count_on_unless_they_are_given(self):
        positions = np.arange(6)[None].repeat(2, axis=0)
        assert_close(self.body(input_ids=IDS, position_ids=positions), self.body(input_ids=IDS))
        moved = self.body(input_ids=IDS, position_ids=positions + 3)
        assert np.abs(moved - self.body(input_ids=IDS)).max() > 1e-3

    def test_rows_do_not_see_each_other(self):
        assert_close(self.body(input_ids=IDS[:1]), self.body(input_ids=IDS)[:1])

    def test_hidden_states_are_those_around_every_block(self):
        """The first is the sum of embeddings; the last is normalised, and is what is returned."""
        model = self.backend.model("Model")
        output = self.backend.call(model, IDS, output_hidden_states=True)
        states = [self.backend.array(state) for state in output.hidden_states]
        assert [state.shape for state in states] == [(2, 6, 24)] * 3
        np.testing.assert_array_equal(states[-1], self.backend.array(output.last_hidden_state))
        zero = np.zeros((2, 6, 24), np.float32)
        of_positions = self.backend.call(model, inputs_embeds=zero, output_hidden_states=True)
        positions = self.backend.array(of_positions.hidden_states[0])
        assert_close(states[0], self.embeddings(IDS) + positions)
        assert self.backend.call(model, IDS).hidden_states is None

    def test_tied_logits_are_products_with_the_embeddings(self):
        model = self.backend.model()
        output = self.backend.call(model, IDS, output_hidden_states=True)
        table = self.backend.array(
            model.get_input_embeddings()(self.backend.tensor(np.arange(61)[None]))
        )[0]
        expected = self.backend.array(output.hidden_states[-1]) @ table.T
        assert_close(self.backend.array(output.logits), expected)

    def test_the_config_asks_for_what_the_call_leaves_open(self):
        model = self.backend.model(
            output_hidden_states=True, output_attentions=True, use_cache=False
        )
        output = self.backend.call(model, IDS)
        assert list(output) == ["logits", "hidden_states", "attentions"]
        assert "attentions" not in self.backend.call(model, IDS, output_attentions=False)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"input_ids": np.array([[61]])}, "input_ids holds 61"),
            ({"input_ids": np.array([[-1]])}, "input_ids holds -1"),
            ({"input_ids": np.ones((1, 33), int)}, "33.*32"),
            ({"input_ids": IDS, "position_ids": np.full((2, 6), 32)}, "position_ids holds 32"),
            ({"input_ids": IDS, "token_type_ids": IDS[:, 1:]}, "token_type_ids"),
            ({"input_ids": IDS, "attention_mask": np.ones((2, 5), int)}, "attention_mask"),
            ({"inputs_embeds": np.zeros((2, 6, 23), np.float32)}, "inputs_embeds"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(self, inputs, message):
        with pytest.raises(InvalidInputError, match=message):
            self.backend.call(self.backend.model("Model"), **inputs)

    def test_other_sizes_of_the_vocabulary(self):
        model = self.backend.tiny_model(self.backend.kind("LMHeadModel"))
        before = self.backend.logits(model, IDS)
        model.resize_token_embeddings(70)
        longer = self.backend.logits(model, IDS)
        assert longer.shape == (2, 6, 70)
        assert_close(longer[..., :61], before)
        model.resize_token_embeddings(60)
        assert_close(self.backend.logits(model, IDS), before[..., :60])
        assert model.config.vocab_size == 60
