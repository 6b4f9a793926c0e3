"""SynthID's watermark: the bits of tokens, and what detectors make of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    SynthIDTextWatermarkDetector,
    SynthIDTextWatermarkingConfig,
    SynthIDTextWatermarkLogitsProcessor,
)
from gpt2x.generation.synthid import mean_score, weighted_mean_score
from support.decoding import decode
from support.fake_engine import VOCAB_SIZE, MarkovEngine
from support.golden_data import case_names, load_case

KEYS = [654, 400, 836, 123]
PROMPT = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
SAMPLING = {"do_sample": True, "top_k": 0, "max_new_tokens": 40, "eos_token_id": None}


def processor(**options):
    config = SynthIDTextWatermarkingConfig(**{"ngram_len": 3, "keys": KEYS, **options})
    return SynthIDTextWatermarkLogitsProcessor(**config.to_dict())


def text(prompt=PROMPT, plan_options=None, **options):
    return decode(
        lambda ops: MarkovEngine(ops, prompt, VOCAB_SIZE),
        prompt,
        vocab_size=VOCAB_SIZE,
        plan_options=plan_options,
        **SAMPLING | options,
    )


@pytest.mark.parametrize("name", case_names("plain/synthid_values"))
def test_a_detector_reads_the_bits_of_transformers(name):
    case = load_case(name)
    found = {}
    tokenizer = SimpleNamespace(eos_token_id=case.settings["eos_token_id"])
    SynthIDTextWatermarkDetector(
        lambda g_values, mask: found.update(g_values=g_values, mask=mask),
        processor(**case.settings["watermarking_config"]),
        tokenizer,
    )(case.inputs["input_ids"])
    for field, expected in case.outputs.items():
        np.testing.assert_array_equal(found[field], expected, err_msg=field)


def test_texts_with_the_watermark_have_higher_scores():
    config = {"ngram_len": 3, "keys": KEYS}
    marked, plain = text(watermarking_config=config), text()
    tokenizer = SimpleNamespace(eos_token_id=VOCAB_SIZE)
    for score in (mean_score, weighted_mean_score):
        detect = SynthIDTextWatermarkDetector(score, processor(), tokenizer)
        assert detect(marked[:, 3:]).shape == (2,)
        assert (detect(marked[:, 3:]) > detect(plain[:, 3:]) + 0.05).all()


def test_weights_tell_the_keys_apart():
    bits = np.array([[[1, 0], [1, 0], [0, 1]]])
    mask = np.array([[1, 1, 0]])
    assert mean_score(bits, mask).tolist() == [0.5]
    np.testing.assert_allclose(weighted_mean_score(bits, mask), 10 / 11)
    assert weighted_mean_score(bits, mask, [1.0, 3.0]).tolist() == [0.25]
    with pytest.raises(InvalidInputError, match="No token of text 0 counts"):
        mean_score(bits, np.zeros((1, 3)))


def test_a_processor_of_the_user_is_the_same_as_the_config():
    config = {"ngram_len": 3, "keys": KEYS}
    own = processor()
    for _ in range(2):  # it keeps nothing of a call
        found = text(do_sample=False, plan_options={"user_processors": [own]})
        np.testing.assert_array_equal(found, text(do_sample=False, watermarking_config=config))


def test_a_row_of_a_batch_is_marked_as_it_is_alone():
    config = {"ngram_len": 3, "keys": KEYS}
    both = text(watermarking_config=config, seed=2)
    alone = text(PROMPT[1:], watermarking_config=config, seed=[(2, 1)])
    np.testing.assert_array_equal(both[1:], alone)


def test_direct_calls_follow_a_text_from_its_prompt():
    scores = np.random.default_rng(0).normal(size=(2, VOCAB_SIZE)).astype(np.float32)
    called, bound = processor(), processor().after_prompt(3)
    ids = np.concatenate([PROMPT, [[7, 8], [9, 9]]], axis=1)
    for length in (3, 4, 5):
        np.testing.assert_array_equal(called(ids[:, :length], scores), bound(ids, scores, length))
    assert processor().expected_mean_g_value(10) == pytest.approx(0.725)
