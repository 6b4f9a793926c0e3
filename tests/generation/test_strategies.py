"""Strategies on models that need no weights: what they write, stop at and remember."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.processors import Processors
from gpt2x.generation.strategies import BeamSearch, Greedy, Sample
from support.decoding import decode
from support.fake_engine import EOS, VOCAB_SIZE, MarkovEngine, SpellingEngine, read, spell

STORIES = ["the cat sat on the mat", "a dog$", "no$"]
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 3},
    "sample_all": {"do_sample": True, "top_k": 0, "top_p": 0.8},
    "beam": {"num_beams": 3},
    "group_beam": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constrained_beam": {"num_beams": 3, "force_words_ids": [[3, 1], [[20, 5], [20, 6]]]},
}


def tell(stories, prompt, **options):
    options = {"eos_token_id": EOS, "max_new_tokens": 12, **options}
    ids = spell(*prompt)
    return decode(
        lambda ops: SpellingEngine(ops, stories, ids.shape[1]),
        ids,
        vocab_size=VOCAB_SIZE,
        **options,
    )


def test_greedy_search_spells_each_story_and_fills_after_its_end():
    texts = read(tell(STORIES, ["th", "a ", "no"], pad_token_id=27, max_new_tokens=8))
    assert texts == ["the cat sa", "a dog$    ", "no$       "]


def test_generation_ends_with_the_longest_text():
    texts = read(tell(["abc$", "ab$"], ["a", "a"]))
    assert texts == ["abc$", "ab$$"]


def test_rows_without_eos_run_to_the_limit():
    assert read(tell(["abc$def"], ["a"], eos_token_id=None, max_new_tokens=6)) == ["abc$def"]


def test_any_of_several_eos_tokens_ends_a_text():
    texts = read(tell(["abxcd", "abyce"], ["a", "a"], eos_token_id=[EOS, 24], max_new_tokens=4))
    assert texts == ["abx$$", "abyce"]


@pytest.mark.parametrize("mode", MODES)
def test_fused_and_stepwise_decoding_write_the_same(mode):
    options = {**MODES[mode], "seed": 3, "max_new_tokens": 9}
    fused = tell(STORIES, ["th", "a ", "no"], **options)
    seen = []
    stepped = tell(STORIES, ["th", "a ", "no"], on_tokens=seen.append, **options)
    np.testing.assert_array_equal(fused, stepped)
    assert len(seen) == 9


def test_the_host_has_token_n_before_step_n_plus_2():
    engines = []

    def engine_of(ops):
        engines.append(SpellingEngine(ops, ["abcdefghij"], 1))
        return engines[0]

    log = []
    decode(
        engine_of,
        spell("a"),
        vocab_size=VOCAB_SIZE,
        max_new_tokens=5,
        on_tokens=lambda tokens: log.append((read([tokens])[0], engines[0].calls)),
    )
    # Token n comes out while the model has computed no more than n steps.
    assert log == [("b", 1), ("c", 2), ("d", 3), ("e", 4), ("f", 5)]


def test_the_prompt_is_run_once_for_all_its_rows():
    engines = []

    def engine_of(ops):
        engines.append(SpellingEngine(ops, ["abcd", "xyzd"], 1))
        return engines[0]

    decode(
        engine_of,
        spell("a", "x"),
        vocab_size=VOCAB_SIZE,
        do_sample=True,
        top_k=1,
        num_return_sequences=3,
        max_new_tokens=2,
    )
    assert engines[0].seen == [spell("b", "b", "b", "y", "y", "y").reshape(-1).tolist()]


def test_scores_and_logits_are_kept_when_asked_for():
    output = tell(
        STORIES,
        ["th", "a ", "no"],
        max_new_tokens=4,
        suppress_tokens=[1],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert len(output.scores) == len(output.logits) == 4
    assert output.logits[0].shape == (3, VOCAB_SIZE)
    assert (output.scores[1][:, 1] == -np.inf).all()
    assert np.isfinite(output.logits[1]).all()
    assert output["sequences"] is output[0] is output.sequences
    assert output.keys() == {"sequences", "scores", "logits"}
    assert len(output.to_tuple()) == 3


@pytest.mark.parametrize("top_k", [0, 5])
def test_scores_of_sampling_are_what_was_drawn_from(top_k):
    output = tell(
        STORIES,
        ["th", "a ", "no"],
        do_sample=True,
        top_k=top_k,
        temperature=0.5,
        renormalize_logits=True,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for step, scores in enumerate(output.scores):
        np.testing.assert_allclose(np.exp(scores).sum(axis=-1), 1, rtol=1e-5)
        if top_k == 5:
            assert (np.isfinite(scores).sum(axis=-1) >= 5).all()
        assert np.isfinite(np.take_along_axis(scores, output.sequences[:, 2 + step, None], 1))[0]


@given(
    seed=st.integers(0, 10**6),
    beams=st.integers(1, 4),
    length=st.integers(1, 4),
    penalty=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_wide_beams_find_the_best_text_of_all(seed, beams, length, penalty):
    """With as many beams as there are texts, beam search is an exhaustive search."""
    vocab, prompt = 3, np.array([[1, 2]], np.int32)
    engine = MarkovEngine(NUMPY_OPS, prompt, vocab, seed)
    beams = min(beams, vocab**length)
    output = decode(
        lambda ops: engine,
        prompt,
        vocab_size=vocab,
        num_beams=vocab**length,
        num_return_sequences=beams,
        max_new_tokens=length,
        length_penalty=penalty,
        return_dict_in_generate=True,
        output_scores=True,
        eos_token_id=None,
    )
    texts = list(itertools.product(range(vocab), repeat=length))
    scores = {text: engine.log_probability([1, 2], text) / length**penalty for text in texts}
    best = sorted(scores.values(), reverse=True)[:beams]
    np.testing.assert_allclose(output.sequences_scores, best, rtol=1e-4, atol=1e-4)
    for row, score in zip(output.sequences, output.sequences_scores, strict=True):
        np.testing.assert_allclose(scores[tuple(row[2:])], score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_beams_rank_finished_texts_by_their_penalised_scores(early_stopping):
    prompt = np.array([[1, 2], [3, 3]], np.int32)
    engine = MarkovEngine(NUMPY_OPS, prompt, 6, seed=4)
    output = decode(
        lambda ops: engine,
        prompt,
        vocab_size=6,
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=7,
        eos_token_id=0,
        pad_token_id=5,
        length_penalty=0.7,
        early_stopping=early_stopping,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert isinstance(output, GenerateBeamDecoderOnlyOutput)
    for row in range(8):
        generated = int((output.beam_indices[row] >= 0).sum())
        text = output.sequences[row, 2 : 2 + generated].tolist()
        assert text[-1] == 0 or generated == 7
        assert (output.sequences[row, 2 + generated :] == 5).all()
        total = engine.log_probability(prompt[row // 4].tolist(), text)
        np.testing.assert_allclose(output.sequences_scores[row], total / generated**0.7, rtol=1e-4)
    ranks = output.sequences_scores.reshape(2, 4)
    assert (np.diff(ranks, axis=1) <= 0).all()


def test_a_batch_of_prompts_searches_as_each_alone():
    prompts = np.array([[1, 2], [3, 3], [0, 4]], np.int32)

    def search(prompt):
        return decode(
            lambda ops: MarkovEngine(ops, prompt, 6, seed=9),
            prompt,
            vocab_size=6,
            num_beams=3,
            max_new_tokens=6,
        )

    together = search(prompts)
    for row in range(3):
        np.testing.assert_array_equal(together[row : row + 1], search(prompts[row : row + 1]))


@pytest.mark.parametrize("mode", MODES)
def test_states_keep_their_shapes_and_dtypes(mode):
    """The reference loop refuses a step that a compiler would refuse."""
    for kept in (False, True):
        tell(
            STORIES,
            ["th", "a ", "no"],
            return_dict_in_generate=kept,
            output_scores=kept,
            output_logits=kept,
            **MODES[mode],
        )

    def change(state):
        return (state[0].astype(np.float64),)

    with pytest.raises(TypeError, match="float64"):
        NUMPY_OPS.while_loop(lambda state: True, change, (np.zeros(1, np.float32),))


def test_the_static_part_of_a_strategy_is_a_key():
    def make(kind, **fields):
        return kind(capacity=8, steps=4, processors=Processors(()), **fields)

    for kind, fields in ((Greedy, {}), (Sample, {"width": 64}), (BeamSearch, {"num_beams": 2})):
        assert make(kind, **fields) == make(kind, **fields)
        assert hash(make(kind, **fields)) == hash(make(kind, **fields))
    assert make(Greedy) != make(Sample)
    assert make(BeamSearch, num_beams=2) != make(BeamSearch, num_beams=3)


def test_a_vocabulary_too_small_for_beams_is_refused():
    with pytest.raises(InvalidInputError, match="vocabulary of more than 2 tokens"):
        decode(
            lambda ops: None,
            np.array([[1]], np.int32),
            vocab_size=2,
            num_beams=2,
            eos_token_id=[0, 1],
        )
