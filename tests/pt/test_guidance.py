"""Classifier-free guidance beside other options: batches, beams, and what is refused."""

from __future__ import annotations

import pytest
import torch

from gpt2x import UnbatchedClassifierFreeGuidanceLogitsProcessor
from gpt2x.errors import InvalidInputError
from support.contract.backend import random_ids
from support.pt_models import tiny_model

IDS = torch.as_tensor(random_ids(2, 5)) % 59 + 1  # 0 pads
MASK = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
NEGATIVE = torch.as_tensor(random_ids(2, 7, seed=3)) % 59 + 1
NEGATIVE_MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
PADDED = {"attention_mask": MASK, "negative_prompt_attention_mask": NEGATIVE_MASK}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(eos_token_id=None)


def write(model, ids=IDS, negative=NEGATIVE, **options):
    options = {"max_new_tokens": 8, "pad_token_id": 0, "guidance_scale": 1.8, **options}
    return model.generate(ids, negative_prompt_ids=negative, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 20}, {"use_cache": False}],
    ids=["greedy", "beams", "sample", "without_cache"],
)
def test_a_padded_row_gives_what_it_gives_alone(model, options):
    both = write(model, **PADDED, **options, seed=4)
    for row in range(2):
        ids, negative = IDS[row, MASK[row] == 1], NEGATIVE[row, NEGATIVE_MASK[row] == 1]
        seed = [(4, row)] if "do_sample" in options else None
        alone = write(model, ids[None], negative[None], **options, seed=seed)
        torch.testing.assert_close(both[row, 5:], alone[0, ids.numel() :])


def test_one_negative_prompt_serves_all_rows(model):
    each = write(model, negative=NEGATIVE[1:].expand(2, -1))
    torch.testing.assert_close(write(model, negative=NEGATIVE[1:]), each)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("negative", [NEGATIVE, None])
def test_the_processor_of_own_loops_does_the_same(model, negative, use_cache):
    mask = None if negative is None else NEGATIVE_MASK
    guide = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.8, model, negative, mask, use_cache)
    found = model.generate(IDS, max_new_tokens=8, pad_token_id=0, logits_processor=[guide])
    expected = write(model, negative=negative, negative_prompt_attention_mask=mask)
    torch.testing.assert_close(found, expected)
    with pytest.raises(InvalidInputError, match="guidance_scale"):
        UnbatchedClassifierFreeGuidanceLogitsProcessor("2", model)


def test_scales_of_one_and_of_none(model):
    text = model.generate(IDS, max_new_tokens=8, pad_token_id=0)
    torch.testing.assert_close(write(model, negative=None, guidance_scale=1.0), text)
    other = model.generate(NEGATIVE, max_new_tokens=8, pad_token_id=0)
    torch.testing.assert_close(write(model, guidance_scale=0.0)[:, 5:], other[:, 7:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": None}, "negative_prompt_ids has no effect without guidance_scale"),
        (
            {
                "guidance_scale": 1,
                "negative": None,
                "negative_prompt_attention_mask": NEGATIVE_MASK,
            },
            "negative_prompt_attention_mask has no effect without guidance_scale",
        ),
        ({"negative": NEGATIVE[[0, 1, 1]]}, "3 rows for 2 prompts; give one for each, or one"),
        ({"negative": NEGATIVE + 100}, "In the negative prompts: .*vocab"),
        (
            {"negative": None, "negative_prompt_attention_mask": NEGATIVE_MASK},
            "belongs to negative_prompt_ids, which are missing",
        ),
        (
            {"negative": NEGATIVE[:, [0] * 28]},
            r"negative prompt has 28 tokens, and 8 new .* 32 positions .* at most 33",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, options, message):
    with pytest.raises(InvalidInputError, match=message):
        write(model, **options)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 20, "seed": 4}])
def test_drafts_change_no_text(model, options):
    expected = write(model, **PADDED, **options, max_new_tokens=20)
    for drafts in ({"prompt_lookup_num_tokens": 4}, {"assistant_early_exit": 1}):
        torch.testing.assert_close(
            write(model, **PADDED, **options, **drafts, max_new_tokens=20), expected
        )
