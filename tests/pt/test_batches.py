"""Calls of `generate` in parts, in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2x.errors import InvalidInputError
from support.contract.batches import MASK, PADDED, PADDED_MASK, PROMPTS, SAMPLING, BatchesContract
from support.pt_models import BACKEND

GUIDANCE = {"guidance_scale": 1.5, "negative_prompt_ids": PROMPTS[:, ::-1].copy()}
POSITIONS = {"position_ids": np.maximum(PADDED_MASK.cumsum(axis=1) + 1, 0)}


class TestBatches(BatchesContract):
    backend = BACKEND

    @pytest.mark.parametrize(
        "options",
        [
            {"repetition_penalty": 1.3},
            {**SAMPLING, **GUIDANCE, "num_return_sequences": 2},
            {**SAMPLING, **POSITIONS, "prompt_lookup_num_tokens": 3},
            {"assistant_early_exit": 1},
            {"penalty_alpha": 0.6, "top_k": 4},
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
            {"num_beams": 3, "force_words_ids": [[21], [[22], [23, 24]]]},
        ],
    )
    def test_every_strategy(self, options):
        model = BACKEND.model(initializer_range=0.4, eos_token_id=9)
        whole = self.texts(model, PADDED, PADDED_MASK, **options)
        parts = self.texts(model, PADDED, PADDED_MASK, **options, batch_size=2)
        np.testing.assert_array_equal(parts, whole)

    def test_embeddings_and_an_encoder(self):
        model = BACKEND.model(initializer_range=0.4, eos_token_id=9, add_cross_attention=True)
        rng = np.random.default_rng(0)
        states = rng.normal(0, 1, (5, 4, model.config.n_embd)).astype(np.float32)
        embeds = rng.normal(0, 1, (5, 3, model.config.n_embd)).astype(np.float32)
        options = {"inputs_embeds": torch.tensor(embeds), "max_new_tokens": 8, "pad_token_id": 0}
        options |= {"encoder_attention_mask": torch.tensor([[1, 1, 1, 0]] * 5)}
        options["encoder_hidden_states"] = torch.tensor(states)
        whole = model.generate(**options)
        assert torch.equal(model.generate(**options, batch_size=2), whole)
        options["encoder_hidden_states"] = torch.tensor(states[:2])  # as many as in a part
        with pytest.raises(InvalidInputError, match=r"has shape \[2, 4, 24\]; it must be \[5, 4"):
            model.generate(**options, batch_size=2)

    def test_a_model_that_prepares_its_inputs(self, monkeypatch):
        model = BACKEND.model(initializer_range=0.4, eos_token_id=9)
        prepare = type(model).prepare_inputs_for_generation
        seen = []

        def prepare_inputs(input_ids, rows=None, **kwargs):
            seen.append((len(input_ids), input_ids[:, 5].tolist() == rows.tolist()))
            return prepare(model, input_ids, **kwargs)

        monkeypatch.setattr(model, "prepare_inputs_for_generation", prepare_inputs, raising=False)
        options = {"rows": torch.tensor(PROMPTS[:, 5]), "repetition_penalty": 1.3}
        whole = self.texts(model, PROMPTS, MASK, **options)
        seen.clear()
        parts = self.texts(model, PROMPTS, MASK, **options, batch_size=2)
        np.testing.assert_array_equal(parts, whole)
        assert set(seen) == {(2, True), (1, True)}
