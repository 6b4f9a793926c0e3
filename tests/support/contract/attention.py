"""What attention does in every backend: who is seen, and whose attention it is.

A backend's `tests/.../test_attention.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend, assert_close, random_ids

PADDED = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
POSITIONS = (PADDED.cumsum(-1) - 1).clip(min=0)
IDS = random_ids(3, 6)

each_implementation = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


class AttentionContract:
    """Masks, positions, returned weights, head masks and users' own implementations."""

    backend: Backend

    def model(self, implementation: str = "sdpa") -> Any:
        return self.backend.model(attn_implementation=implementation)

    @pytest.mark.parametrize(("implementation", "side"), [("eager", "left"), ("sdpa", "right")])
    def test_a_padded_row_gives_what_it_gives_alone(self, implementation, side):
        """With nothing but the mask: positions follow from it, in prefill and in decoding."""
        model, call = self.model(implementation), self.backend.call
        texts = [random_ids(1, length, seed=length) for length in (2, 6)]
        ids, mask = np.full((2, 6), 7), np.zeros((2, 6), int)
        for row, text in enumerate(texts):
            length = text.shape[1]
            place = slice(6 - length, 6) if side == "left" else slice(0, length)
            ids[row, place], mask[row, place] = text[0], 1
        batch = call(model, ids, attention_mask=mask)
        token, longer = random_ids(2, 1, seed=9), np.pad(mask, [(0, 0), (0, 1)], constant_values=1)
        past = batch.past_key_values
        step = self.backend.logits(model, token, attention_mask=longer, past_key_values=past)
        for row, text in enumerate(texts):
            alone = call(model, text)
            real = self.backend.array(batch.logits)[row][mask[row] == 1]
            assert_close(real, self.backend.array(alone.logits)[0])
            past = alone.past_key_values
            next_alone = self.backend.logits(model, token[row : row + 1], past_key_values=past)
            assert_close(step[row], next_alone[0])

    @each_implementation
    def test_no_token_sees_the_future(self, implementation):
        """Nor do tokens of the padding in front of a text."""
        model, changed = self.model(implementation), IDS.copy()
        changed[:, 4:] = (IDS[:, 4:] + 1) % 60
        for inputs in ({}, {"attention_mask": PADDED}):
            before, after = (self.backend.logits(model, ids, **inputs) for ids in (IDS, changed))
            np.testing.assert_array_equal(before[:, :4], after[:, :4])
            assert np.abs(before[1, 5] - after[1, 5]).max() > 1e-3

    def test_rows_that_see_nothing_give_numbers(self):
        model, nothing = self.model(), np.zeros((3, 6), int)
        hidden = np.full((3, 1, 6, 6), -np.inf, np.float32)
        for mask in (nothing, hidden, np.zeros((3, 1, 6, 6), bool)):
            assert np.isfinite(self.backend.logits(model, IDS, attention_mask=mask)).all()

    @each_implementation
    def test_masks_of_rank_4_say_what_those_of_rank_2_say(self, implementation):
        model = self.model(implementation)
        expected = self.backend.logits(model, IDS, attention_mask=PADDED)
        allowed = np.tri(6, dtype=bool) & PADDED.astype(bool)[:, None, None]
        additive = np.where(allowed, 0, -np.inf).astype(np.float32)
        for mask in (allowed, additive, PADDED.astype(bool)[:, None, None]):
            logits = self.backend.logits(model, IDS, attention_mask=mask, position_ids=POSITIONS)
            assert_close(logits[PADDED == 1], expected[PADDED == 1])

    def test_a_mask_with_a_row_for_every_query_replaces_the_causal_order(self):
        every = np.ones((1, 1, 6, 6), bool)
        eager, fused = (
            self.backend.logits(self.model(name), IDS, attention_mask=every)
            for name in ("eager", "sdpa")
        )
        assert_close(eager, fused)
        causal = self.backend.logits(self.model(), IDS)
        assert np.abs(fused[:, 0] - causal[:, 0]).max() > 1e-3

    def test_packed_texts_do_not_see_each_other(self):
        model, logits = self.model(), self.backend.logits
        first, second = random_ids(1, 3), random_ids(1, 4, seed=1)
        packed = np.concatenate([first, second], axis=1)
        positions = np.array([[0, 1, 2, 0, 1, 2, 3]])
        apart = logits(model, packed, position_ids=positions, use_cache=False)
        assert_close(apart[:, :3], logits(model, first))
        assert_close(apart[:, 3:], logits(model, second))
        # A mask, even one that hides nothing, says that it is one text.
        options = {"position_ids": positions, "attention_mask": np.ones((1, 7), int)}
        one_text = logits(model, packed, use_cache=False, **options)
        assert np.abs(one_text[:, 3:] - apart[:, 3:]).max() > 1e-3

    def test_returned_weights_are_causal_and_sum_to_one(self):
        model = self.model()
        output = self.backend.call(model, IDS, attention_mask=PADDED, output_attentions=True)
        assert len(output.attentions) == 2
        for weights in map(self.backend.array, output.attentions):
            assert weights.shape == (3, 3, 6, 6)
            assert_close(weights.sum(-1), np.ones((3, 3, 6)))
            assert not np.triu(weights, 1).any()
            assert not weights[0, :, 3:, :3].any()  # a text does not see the padding before it
        assert self.backend.call(model, IDS).attentions is None

    def test_a_head_mask_silences_heads(self):
        model, mask = self.model(), np.array([[1.0, 0, 1], [1, 1, 1]], np.float32)
        masked = self.backend.call(model, IDS, head_mask=mask, output_attentions=True)
        weights = self.backend.array(masked.attentions[0])
        assert not weights[:, 1].any()
        assert weights[:, 0].any()
        plain = self.backend.logits(model, IDS)
        assert np.abs(self.backend.array(masked.logits) - plain).max() > 1e-3
        ones = np.ones(3, np.float32)
        assert_close(self.backend.logits(model, IDS, head_mask=ones), plain)
        with pytest.raises(InvalidInputError, match="head_mask"):
            self.backend.call(model, IDS, head_mask=np.ones(4, np.float32))

    def test_a_registered_implementation_is_called_in_each_layer(self):
        shapes = []

        def blind(query, key, value, mask, **options):
            """Each token sees itself alone."""
            assert {"scaling", "dropout"} <= set(options)
            shapes.append((tuple(query.shape), tuple(key.shape), tuple(value.shape)))
            return value

        self.backend.module.register_attention("blind", blind)
        model = self.backend.tiny_model(self.backend.kind("LMHeadModel"))
        plain = self.backend.logits(model, IDS)
        model.set_attn_implementation("blind")
        logits = self.backend.logits(model, IDS)
        assert shapes == [((3, 3, 6, 8),) * 3] * 2
        assert_close(logits[:, :1], plain[:, :1])  # the first token sees no other anyway
        assert np.abs(logits - plain).max() > 1e-3
        changed = IDS.copy()
        changed[:, 0] = (IDS[:, 0] + 1) % 60
        assert_close(self.backend.logits(model, changed)[:, 1:], logits[:, 1:])

    def test_only_names_that_are_free_or_known_are_taken(self):
        with pytest.raises(InvalidInputError, match="'eager' is a built-in"):
            self.backend.module.register_attention("eager", lambda *arrays, **options: arrays[0])
        model = self.backend.tiny_model(self.backend.kind("Model"), n_layer=1)
        with pytest.raises(InvalidInputError, match="Did you mean 'sdpa'"):
            model.set_attn_implementation("spda")
        with pytest.raises(InvalidInputError, match="attn_implementation is 'flash_attention_2'"):
            self.backend.tiny_model(
                self.backend.kind("Model"), attn_implementation="flash_attention_2"
            )
