"""Sampling: the distribution it draws from, and streams that do not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.generation import (
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from gpt2x.generation.strategies import Outputs
from support.decoding import decode
from support.draws import assert_drawn_from
from support.fake_engine import MarkovEngine

DRAWS = 100_000
VOCAB = 60


class ConstantEngine:
    """Gives every row the same logits."""

    def __init__(self, ops, logits, rows):
        self.ops, self.logits, self.rows = ops, logits, rows

    def prefill(self):
        logits = np.broadcast_to(self.logits, (self.rows, self.logits.size))
        return Outputs(self.ops.constant(np.ascontiguousarray(logits), "float")), ()

    def expand(self, cache, origins):
        return cache


def draw(logits, rows, seed, **options):
    """Return one token for each row, int [rows]."""
    return decode(
        lambda ops: ConstantEngine(ops, logits, 1),
        np.zeros((1, 1), np.int32),
        vocab_size=logits.size,
        do_sample=True,
        num_return_sequences=rows,
        max_new_tokens=1,
        seed=seed,
        **options,
    )[:, 1]


@pytest.mark.parametrize(
    ("options", "warpers"),
    [
        ({"top_k": 0}, []),
        ({"top_k": 20}, [TopKLogitsWarper(20)]),
        ({"top_k": 0, "top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_k": 30, "top_p": 0.9}, [TopKLogitsWarper(30), TopPLogitsWarper(0.9)]),
        ({"top_k": 0, "min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        ({"top_k": 0, "typical_p": 0.6}, [TypicalLogitsWarper(0.6)]),
        ({"top_k": 0, "eta_cutoff": 0.02}, [EtaLogitsWarper(0.02)]),
    ],
    ids=["all", "top_k", "top_p", "top_k_and_top_p", "min_p", "typical_p", "eta"],
)
def test_draws_follow_the_filtered_softmax(options, warpers):
    logits = np.random.default_rng(3).normal(0, 1.5, VOCAB).astype(np.float32)
    scores = logits[None, :]
    for warper in warpers:
        scores = warper(np.zeros((1, 1), np.int32), scores)
    weights = np.exp(scores[0].astype(np.float64))
    draws = [draw(logits, rows=DRAWS // 10, seed=seed, **options) for seed in range(10)]
    counts = np.bincount(np.concatenate(draws), minlength=VOCAB)
    assert_drawn_from(weights / weights.sum(), counts)


def test_beams_are_drawn_without_replacement():
    """Two beams after one step: a pair of tokens, the second drawn from what the first left."""
    logits = np.array([2.0, 1.0, 0.5, 0.0, -1.0], np.float32)
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    prompts = np.zeros((20_000, 1), np.int32)
    rows = decode(
        lambda ops: ConstantEngine(ops, logits, len(prompts)),
        prompts,
        vocab_size=5,
        do_sample=True,
        top_k=0,
        num_beams=2,
        num_return_sequences=2,
        max_new_tokens=1,
        seed=3,
    )
    pairs = np.sort(rows[:, 1].reshape(-1, 2), axis=1)
    first, second = np.triu_indices(5, 1)
    expected = p[first] * p[second] * (1 / (1 - p[first]) + 1 / (1 - p[second]))
    counts = np.array([((pairs == pair).all(1)).sum() for pair in zip(first, second, strict=True)])
    assert counts.sum() == len(prompts)
    assert_drawn_from(expected, counts)


def test_seeds_differ_and_repeat():
    logits = np.zeros(VOCAB, np.float32)
    first, again, other = (draw(logits, rows=64, top_k=0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).sum() > 50
    assert len(set(first.tolist())) > 40  # the rows of one seed differ too


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": 8}, {"top_k": 8, "top_p": 0.8}])
@given(seed=st.integers(0, 2**64 - 1), row=st.integers(0, 5))
def test_a_row_alone_repeats_what_it_was_in_its_batch(options, seed, row):
    prompts = np.arange(12, dtype=np.int32).reshape(6, 2)

    def sample(prompt, seed):
        return decode(
            lambda ops: MarkovEngine(ops, prompt, 30, seed=1),
            prompt,
            vocab_size=30,
            do_sample=True,
            max_new_tokens=6,
            seed=seed,
            **options,
        )

    batch = sample(prompts, seed)
    alone = sample(prompts[row : row + 1], [(seed, row)])
    np.testing.assert_array_equal(batch[row], alone[0])


def test_returned_sequences_of_a_prompt_have_streams_of_their_own():
    prompts = np.array([[1, 2], [1, 2]], np.int32)
    options = {"vocab_size": 30, "do_sample": True, "max_new_tokens": 5}

    def engine_of(prompt):
        return lambda ops: MarkovEngine(ops, prompt, 30)

    rows = decode(engine_of(prompts), prompts, num_return_sequences=3, seed=7, **options)
    assert len({tuple(row) for row in rows.tolist()}) == 6
    fifth = decode(engine_of(prompts[:1]), prompts[:1], seed=[(7, 4)], **options)
    np.testing.assert_array_equal(rows[4], fifth[0])


def test_top_k_1_is_greedy_search():
    prompt = np.array([[3, 4]], np.int32)
    options = {"vocab_size": 30, "max_new_tokens": 8}
    sampled = decode(
        lambda ops: MarkovEngine(ops, prompt, 30), prompt, do_sample=True, top_k=1, **options
    )
    greedy = decode(lambda ops: MarkovEngine(ops, prompt, 30), prompt, **options)
    np.testing.assert_array_equal(sampled, greedy)
