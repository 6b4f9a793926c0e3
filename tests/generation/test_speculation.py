"""Speculation: drafts, whoever makes them, change no text, only how often the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.strategies import Greedy, PromptLookup, Settings
from support.decoding import decode
from support.fake_engine import EOS, VOCAB_SIZE, MarkovEngine, SpellingEngine, read, spell

VOCAB = 6
LOOKUP = {"prompt_lookup_num_tokens": 4}
DRAFTING = {"lookup": LOOKUP}
PROMPTS = np.array([[1, 2, 3, 1, 2], [4, 3, 1, 4, 1], [0, 0, 2, 2, 4]], np.int32)
MASK = np.array([[1] * 5, [1] * 5, [0, 0, 1, 1, 1]])
PROCESSORS = {
    "none": {},
    "penalties": {"repetition_penalty": 1.4, "encoder_repetition_penalty": 1.2},
    "ngrams": {"no_repeat_ngram_size": 3, "bad_words_ids": [[1, 2], [3]]},
    "lengths": {"min_new_tokens": 7, "forced_eos_token_id": 3},
    "decay": {"exponential_decay_length_penalty": (4, 1.3), "begin_suppress_tokens": [1]},
}
CHOICES = {
    "greedy": {},
    "top_k": {"do_sample": True, "top_k": 3},
    "all": {"do_sample": True, "top_k": 0, "top_p": 0.9, "temperature": 0.8},
}


class CountingEngine(MarkovEngine):
    """Counts the calls of the model."""

    def __init__(self, ops, prompt, seed):
        super().__init__(ops, prompt, VOCAB, seed)
        self.calls = 0

    def decode(self, request, cache):
        self.calls += 1
        return super().decode(request, cache)


def write(seed: int, **options: Any) -> tuple[Any, int]:
    """Continue three prompts, one of them padded; return the result and the calls of the model."""
    engines = []

    def engine_of(ops):
        engines.append(CountingEngine(ops, PROMPTS, seed))
        return engines[0]

    options = {
        "max_new_tokens": 16,
        "eos_token_id": 0,
        "pad_token_id": 5,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "mask": MASK,
        **options,
    }
    output = decode(engine_of, PROMPTS, vocab_size=VOCAB, seed=seed, **options)
    return output, engines[0].calls


def assert_same(found: Any, expected: Any, prompt_length: int = 5) -> None:
    """Assert equal texts, and equal scores and logits for every token up to a text's end."""
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    new = expected.sequences[:, prompt_length:]
    ended = np.cumsum(new == 0, axis=1) - (new == 0) > 0  # [R, steps]
    for name in ("scores", "logits"):
        for step, (a, b) in enumerate(zip(found[name], expected[name], strict=True)):
            np.testing.assert_allclose(a[~ended[:, step]], b[~ended[:, step]], rtol=1e-6)
            assert (a[ended[:, step]] == 0).all()


@pytest.mark.parametrize("drafting", DRAFTING)
@given(
    seed=st.integers(0, 2**32),
    processors=st.sampled_from(list(PROCESSORS)),
    choice=st.sampled_from(list(CHOICES)),
    copies=st.integers(1, 2),
    stepwise=st.booleans(),
)
def test_texts_and_scores_are_those_without_drafts(
    drafting, seed, processors, choice, copies, stepwise
):
    options = {**PROCESSORS[processors], **CHOICES[choice]}
    if choice != "greedy":
        options["num_return_sequences"] = copies
    plain, _ = write(seed, **options)
    drafted, _ = write(seed, **options, **DRAFTING[drafting], stepwise=stepwise)
    assert_same(drafted, plain)


@pytest.mark.parametrize("drafting", DRAFTING)
@given(seed=st.integers(0, 2**32), choice=st.sampled_from(list(CHOICES)))
def test_functions_of_users_see_no_draft_that_is_wrong(drafting, seed, choice):
    def run(**more):
        seen: set[tuple[int, ...]] = set()

        def stops(input_ids, scores):
            seen.update(tuple(row) for row in input_ids.tolist())
            assert len(scores) == input_ids.shape[1] - 5
            return np.array([row[-3:].sum() % 5 == 4 for row in input_ids])

        def process(input_ids, scores):
            seen.update(tuple(row) for row in input_ids.tolist())
            return scores + (np.arange(VOCAB) == input_ids.sum(axis=1, keepdims=True) % VOCAB)

        options = {"user_processors": process, "stopping_criteria": stops}
        output, _ = write(seed, plan_options=options, **CHOICES[choice], **more)
        return output, seen

    plain, _ = run()
    drafted, seen = run(**DRAFTING[drafting])
    np.testing.assert_array_equal(drafted.sequences, plain.sequences)
    texts = plain.sequences.tolist()
    assert seen <= {tuple(text[:length]) for text in texts for length in range(5, 22)}


def test_a_repeated_text_is_written_with_few_calls():
    engine: list[Any] = []

    def engine_of(ops):
        engine.append(SpellingEngine(ops, ["the cat the cat the cat the cat$"], 8))
        return engine[0]

    options = {"vocab_size": VOCAB_SIZE, "eos_token_id": EOS, "max_new_tokens": 30}
    texts = decode(engine_of, spell("the cat "), prompt_lookup_num_tokens=8, **options)
    assert read(texts) == ["the cat the cat the cat the cat$"]
    # The prompt, the first word, which nothing predicts, then up to nine letters at a time.
    assert engine[0].calls <= 6


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("xab ybc zabd ab", 2, " yb"),  # of equal matches, the first
        ("xab ybc zabd zab", 3, "d z"),  # the longest match
        ("xyab", 2, ""),
        ("aab", 1, ""),  # the last token itself does not count
        ("aba", 2, "ba"),  # no more than there is
    ],
)
def test_lookup_drafts_what_followed_the_last_tokens(text, size, expected):
    ids = spell(text)
    strategy = PromptLookup(
        chooser=Greedy(capacity=24, steps=4), num_drafts=3, ngram_size=size, capacity=24, steps=4
    )
    settings = Settings(ids, np.ones((1, 24), bool), ids.shape[1], 24, [], 0, (), (), (), 0, 1.0)
    state = strategy.init(NUMPY_OPS, settings, VOCAB_SIZE)
    state = strategy.redraft(NUMPY_OPS, state, state.count, settings)
    assert read(state.drafts[:, : state.count[0]]) == [expected]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_beams": 2}, "num_beams > 1"),
        ({"use_cache": False}, "use_cache=False"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
@pytest.mark.parametrize("drafting", DRAFTING)
def test_what_cannot_be_combined_is_refused(drafting, other, message):
    with pytest.raises(InvalidInputError, match=f"cannot be combined with {message}"):
        write(0, **DRAFTING[drafting], **other)


def test_numbers_of_drafts_are_checked():
    for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            write(0, **{**LOOKUP, name: 0})
