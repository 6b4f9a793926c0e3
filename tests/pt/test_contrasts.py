"""Contrastive search and DoLa in PyTorch: golden texts, rows of a batch, streaming and caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2x.errors import InvalidInputError
from gpt2x.pt import GPT2LMHeadModel
from support.contract.contrastive import ContrastiveContract
from support.contrasts import ALL_CASES, check_case
from support.golden_data import load_case
from support.pt_models import BACKEND, golden_model, random_ids, tiny_config, untrained_model
from support.recorder import Recorder

MODES = {
    "contrastive": {"penalty_alpha": 0.5, "top_k": 4},
    "dola": {"dola_layers": [0, 1], "repetition_penalty": 1.2},
    "dola_sample": {"dola_layers": [0, 1], "do_sample": True, "seed": 3, "top_k": 20},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return untrained_model(eos_token_id=None)


@pytest.mark.parametrize("name", ALL_CASES)
def test_texts_and_scores_match_transformers(name):
    case = load_case(name)
    check_case(case, golden_model(case), torch.tensor)


@pytest.mark.parametrize("mode", MODES)
def test_a_row_of_a_padded_batch_is_its_single_run(mode, model):
    torch.manual_seed(1)
    ids = random_ids(3, 7)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [0] * 6 + [1]])
    options = {**MODES[mode], "max_new_tokens": 8, "pad_token_id": 0}
    batch = model.generate(ids, attention_mask=mask, **options)
    for row in range(3):
        if "seed" in options:
            options["seed"] = [(3, row)]
        alone = model.generate(ids[row : row + 1, mask[row] == 1], **options)
        assert alone[0, -8:].tolist() == batch[row, -8:].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_streams_the_texts_and_returns_a_cache_that_can_go_on(mode, model):
    ids, options = torch.tensor([[5, 9, 3]]), {**MODES[mode], "pad_token_id": 0}
    recorder = Recorder()
    output = model.generate(
        ids, max_new_tokens=6, streamer=recorder, return_dict_in_generate=True, **options
    )
    streamed = np.concatenate([np.asarray(part).reshape(-1) for part in recorder.values])
    assert streamed.tolist() == output.sequences[0].tolist()
    past = output.past_key_values
    assert past.length == output.sequences.size(1) - 1
    continued = model(output.sequences[:, -1:], past_key_values=past).logits[0, -1]
    torch.testing.assert_close(continued, model(output.sequences).logits[0, -1])


def test_dola_needs_no_cache(model):
    ids, options = torch.tensor([[5, 9, 3]]), {"dola_layers": [0, 1], "max_new_tokens": 6}
    cached = model.generate(ids, pad_token_id=0, **options)
    assert torch.equal(model.generate(ids, pad_token_id=0, use_cache=False, **options), cached)


@pytest.mark.parametrize("mode", ["contrastive", "dola"])
def test_a_model_that_prepares_its_own_inputs_is_refused(mode):
    class Own(GPT2LMHeadModel):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            return super().prepare_inputs_for_generation(*args, **kwargs)

    with pytest.raises(InvalidInputError, match="overrides prepare_inputs_for_generation"):
        Own(tiny_config()).generate(torch.tensor([[5]]), **MODES[mode])


class TestContrastiveSearch(ContrastiveContract):
    backend = BACKEND
