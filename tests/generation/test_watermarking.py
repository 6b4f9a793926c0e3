"""Watermarks: which tokens are favoured, and what the detector finds; texts are in tests/pt."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    WatermarkDetector,
    WatermarkDetectorOutput,
    WatermarkingConfig,
    WatermarkLogitsProcessor,
)
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.permutation import permutation
from gpt2x.generation.processors.base import Context
from support.decoding import decode
from support.fake_engine import EOS, VOCAB_SIZE, SpellingEngine, spell
from support.golden_data import case_names, load_case

CONFIG = GPT2Config(vocab_size=50, bos_token_id=49)
SCORES = np.random.default_rng(3).normal(size=(3, 50)).astype(np.float32)
IDS = np.array([[4, 5, 6], [7, 5, 6], [7, 8, 9]])


def favoured(processor, ids, scores=SCORES):
    """Return which tokens the processor favours, and that it changes no others."""
    change = processor(ids, scores) - scores
    np.testing.assert_allclose(change[change != 0], processor.bias, atol=1e-6)
    return change != 0


@pytest.mark.parametrize("name", case_names("plain/watermark_detector"))
def test_the_detector_gives_the_numbers_of_transformers(name):
    case = load_case(name)
    detector = WatermarkDetector(
        GPT2Config(**case.config), "cpu", case.settings["watermarking_config"]
    )
    found = detector(case.inputs["input_ids"], return_dict=True, **case.settings["call"])
    assert type(found) is WatermarkDetectorOutput
    for field, expected in case.outputs.items():
        assert getattr(found, field).dtype == expected.dtype
        np.testing.assert_array_equal(getattr(found, field), expected, err_msg=field)
    predictions = detector(case.inputs["input_ids"], **case.settings["call"])
    np.testing.assert_array_equal(predictions, case.outputs["prediction"])


def test_lefthash_favours_what_follows_from_the_last_token():
    processor = WatermarkLogitsProcessor(50, "cpu", hashing_key=7, greenlist_ratio=0.3)
    assert processor.greenlist_size == 15
    green = favoured(processor, IDS)
    np.testing.assert_array_equal(green[0], green[1])
    np.testing.assert_array_equal(np.flatnonzero(green[0]), np.sort(permutation(7 * 6, 50, 15)))
    assert (green[0] != green[2]).any()


def test_selfhash_favours_some_of_the_likeliest_tokens():
    processor = WatermarkLogitsProcessor(50, bias=1.5, seeding_scheme="selfhash", context_width=2)
    green = favoured(processor, IDS)
    likeliest = np.argsort(-SCORES, axis=1)[:, :40]
    assert not np.delete(green[0], likeliest[0]).any()
    both = np.intersect1d(likeliest[0], likeliest[1])
    np.testing.assert_array_equal(green[0][both], green[1][both])  # they end with the same token
    assert 0 < green.sum() < 3 * 40


@pytest.mark.parametrize("scheme", ["lefthash", "selfhash"])
def test_a_text_shorter_than_the_context_is_left_as_it_is(scheme):
    processor = WatermarkLogitsProcessor(50, seeding_scheme=scheme, context_width=3)
    assert not favoured(processor, IDS[:, :2]).any()
    real = np.array([[True] * 3, [False, True, True], [True] * 3])
    for length, expected in ((3, [True, False, True]), ([[3], [3], [2]], [True, False, False])):
        length = np.array(length) if isinstance(length, list) else length
        scores = processor.apply(
            NUMPY_OPS, SCORES, Context(IDS, real, length), processor.static, processor.values
        )
        assert (scores != SCORES).any(axis=1).tolist() == expected


def test_forbidden_tokens_stay_forbidden():
    scores = np.where(np.arange(50) < 45, -np.inf, SCORES)
    for scheme in ("lefthash", "selfhash"):
        processed = WatermarkLogitsProcessor(50, seeding_scheme=scheme)(IDS, scores)
        assert np.isneginf(processed[:, :45]).all()
        assert np.isfinite(processed[:, 45:]).all()


def test_scores_of_a_smaller_vocabulary_are_refused():
    with pytest.raises(InvalidInputError, match=r"vocabulary of 60 tokens, but .* 50 columns"):
        WatermarkLogitsProcessor(60)(IDS, SCORES)


def test_with_a_large_bias_every_token_that_is_drawn_is_green():
    prompt = spell("ab", "cd")
    text = decode(
        lambda ops: SpellingEngine(ops, ["ab" * 20, "cd" * 20], 2),
        prompt,
        vocab_size=VOCAB_SIZE,
        do_sample=True,
        top_k=0,
        max_new_tokens=30,
        eos_token_id=None,
        watermarking_config={"bias": 50.0, "greenlist_ratio": 0.5},
    )
    detector = WatermarkDetector(
        GPT2Config(vocab_size=VOCAB_SIZE, bos_token_id=EOS), None, {"greenlist_ratio": 0.5}
    )
    found = detector(text[:, 1:], return_dict=True)
    assert found.green_fraction.tolist() == [1.0, 1.0]
    assert found.prediction.all()


def test_repeated_ngrams_can_count_once():
    ids = np.array([[5, 6] * 4])
    every = WatermarkDetector(CONFIG, None, {})(ids, return_dict=True)
    once = WatermarkDetector(CONFIG, None, {}, ignore_repeated_ngrams=True)(ids, return_dict=True)
    assert (every.num_tokens_scored[0], once.num_tokens_scored[0]) == (7, 2)
    green = [WatermarkDetector(CONFIG, None, {})(np.array([pair]), return_dict=True)
             for pair in ((5, 6), (6, 5))]  # fmt: skip
    first, second = (found.num_green_tokens[0] for found in green)
    assert every.num_green_tokens[0] == 4 * first + 3 * second
    assert once.num_green_tokens[0] == first + second


@pytest.mark.parametrize("scheme", ["lefthash", "selfhash"])
def test_padding_is_not_scored(scheme):
    config = WatermarkingConfig(seeding_scheme=scheme, context_width=2)
    detector = WatermarkDetector(CONFIG, None, config)
    ids = np.random.default_rng(4).integers(0, 49, (2, 12))
    mask = np.ones_like(ids)
    mask[0, :3], mask[1, 9:] = 0, 0
    padded = detector(ids, return_dict=True, attention_mask=mask)
    for row, part in enumerate((slice(3, 12), slice(0, 9))):
        alone = detector(ids[row : row + 1, part], return_dict=True)
        assert padded.z_score[row] == alone.z_score[0]


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (np.array([[1]]), {}, "at least 2 tokens"),
        (np.array([[49, 1]]), {}, "at least 2 tokens"),  # a bos does not count
        (np.array([1, 2]), {}, r"shape \[batch, length\]"),
        (np.array([[1.0, 2.0]]), {}, "input_ids"),
        (np.array([[1, 2, 3]]), {"attention_mask": np.array([[0, 0, 1]])}, "at least 2 tokens"),
        (np.array([[1, 2, 3]]), {"attention_mask": np.ones((1, 2))}, "attention_mask has shape"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(ids, options, message):
    with pytest.raises(InvalidInputError, match=message):
        WatermarkDetector(CONFIG, None, {})(ids, **options)


def test_a_detector_needs_the_watermark():
    with pytest.raises(InvalidInputError, match="must be a WatermarkingConfig"):
        WatermarkDetector(CONFIG, "cpu")
