"""PyTorch's `Ops` against the numpy reference: operations, and whole strategies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.generation import random
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops
from gpt2x.generation.registry import ops_for
from gpt2x.generation.seeds import streams
from gpt2x.pt.ops import CPU_OPS, torch_ops
from support.decoding import decode
from support.fake_engine import MarkovEngine
from support.ops_programs import check_results, run_programs

PROMPTS = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
PROCESSORS = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[3], [4, 5]],
    "sequence_bias": [[[6], 1.5], [[7, 8], -4.0]],
    "min_new_tokens": 3,
    "eos_token_id": [0, 29],
    "forced_eos_token_id": 29,
    "exponential_decay_length_penalty": (2, 1.2),
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [13],
    "remove_invalid_values": True,
}
MODES = {
    "greedy": {},
    "processors": PROCESSORS,
    "sample": {"do_sample": True, "top_k": 0, "top_p": 0.9, "typical_p": 0.95},
    "sample_top_k": {"do_sample": True, "top_k": 7, "top_p": 0.9, "num_return_sequences": 3},
    "sample_processors": {**PROCESSORS, "do_sample": True, "min_p": 0.01, "eta_cutoff": 0.001},
    "beam": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.8},
    "beam_sample": {"num_beams": 3, "do_sample": True, "top_k": 12, "temperature": 1.5},
    "beam_processors": {**PROCESSORS, "num_beams": 3, "early_stopping": True},
}


def _decode(ops, mode, seed):
    return decode(
        lambda ops: MarkovEngine(ops, PROMPTS, 30, seed % 1000),
        PROMPTS,
        vocab_size=30,
        ops=ops,
        max_new_tokens=9,
        seed=seed,
        return_dict_in_generate=True,
        output_scores=True,
        **{"eos_token_id": 0, **MODES[mode]},
    )


def test_operations_agree_with_numpy():
    check_results(CPU_OPS, run_programs(CPU_OPS))


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**64 - 1))
def test_both_write_the_same(mode, seed):
    expected, found = _decode(NUMPY_OPS, mode, seed), _decode(CPU_OPS, mode, seed)
    assert found.sequences.tolist() == expected.sequences.tolist()
    for left, right in zip(found.scores, expected.scores, strict=True):
        np.testing.assert_allclose(left.numpy(), right, rtol=1e-4, atol=1e-4)


def test_texts_that_are_ruled_out_are_taken_in_order():
    """The last token must be eos, and so no text can go on; torch's `topk` takes any of these."""
    expected, found = (
        decode(
            lambda ops: MarkovEngine(ops, PROMPTS, 40, seed=0),
            PROMPTS,
            vocab_size=40,
            ops=ops,
            max_new_tokens=3,
            eos_token_id=[0, 5],
            forced_eos_token_id=0,
            num_beams=4,
            num_return_sequences=4,
            force_words_ids=[[7, 8], [9, 4]],
        )
        for ops in (NUMPY_OPS, CPU_OPS)
    )
    assert found.tolist() == expected.tolist()


def test_the_noise_has_the_same_bits():
    ids = np.arange(1000, dtype=np.int32)[None, :]

    def words(ops):
        keys = streams(2**40 + 7, 3).keys(ops)
        counter = (ops.words(ops.full((1, 1), 5, "int")), ops.words(ops.constant(ids, "int")))
        key = (keys[0][:, None], keys[1][:, None])
        return ops.hash_words(key, counter), Ops.hash_words(ops, key, counter)

    expected = words(NUMPY_OPS)[0].view(np.int32)
    fast, plain = words(CPU_OPS)
    np.testing.assert_array_equal(fast.numpy(), expected)
    np.testing.assert_array_equal(plain.numpy(), expected)  # what accelerators compute
    halves = (ops.word_halves(words(ops)[0]) for ops in (NUMPY_OPS, CPU_OPS))
    for left, right in zip(*halves, strict=True):
        np.testing.assert_array_equal(left, right.numpy())
    noise = [
        random.gumbel_noise(ops, streams(1, 3).keys(ops), 0, ops.constant(ids, "int"))
        for ops in (NUMPY_OPS, CPU_OPS)
    ]
    np.testing.assert_allclose(noise[0], noise[1].numpy(), rtol=1e-5, atol=1e-5)


def test_tensors_choose_their_ops():
    assert ops_for(torch.zeros(1)) is CPU_OPS
    assert torch_ops(torch.device("meta")).device.type == "meta"
    assert ops_for(np.zeros(1)) is NUMPY_OPS
