"""Speculation: drafts, whoever makes them, change no text, only how often the model runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.generation.drafts import AssistantOptions
from gpt2x.generation.engine import AssistedEngine
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.strategies import Greedy, PromptLookup, Settings
from support.decoding import decode
from support.draws import assert_drawn_from
from support.fake_engine import EOS, VOCAB_SIZE, MarkovEngine, SpellingEngine, read, spell

VOCAB = 6
LOOKUP = {"prompt_lookup_num_tokens": 4}
ASSISTED = {"assistant": GenerationConfig(num_assistant_tokens=4), "differs": True}
DRAFTING = {
    "lookup": LOOKUP,
    "assistant": {**ASSISTED, "assistant_confidence_threshold": 0.1},
    "heuristic": {**ASSISTED, "num_assistant_tokens_schedule": "heuristic"},
    "same": {**ASSISTED, "differs": False},
}
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
    """Counts the calls of a model."""

    def __init__(self, ops, prompt, seed):
        super().__init__(ops, prompt, VOCAB, seed)
        self.calls = 0

    def decode(self, request, cache):
        self.calls += 1
        return super().decode(request, cache)


class AssistantEngine(CountingEngine):
    """A model of which only the last logits are asked for.

    other: whether its language is another than the model's, if only a little.
    """

    def __init__(self, ops, prompt, seed, other):
        super().__init__(ops, prompt, seed)
        self.table = self.table + 0.4 * other * MarkovEngine(ops, prompt, VOCAB, seed + 1).table

    def decode(self, request, cache):
        outputs, cache = super().decode(request, cache)
        return outputs._replace(logits=outputs.logits[:, -1]), cache


def write(seed: int, *, assistant=None, differs=False, **options: Any) -> tuple[Any, Any]:
    """Continue three prompts, one of them padded; return the result and the calls of each model."""
    engines = []

    def engine_of(ops):
        engines.append(CountingEngine(ops, PROMPTS, seed))
        if assistant is None:
            return engines[0]
        engines.append(AssistantEngine(ops, PROMPTS, seed, differs))
        return AssistedEngine(*engines)

    options = {
        "max_new_tokens": 16,
        "eos_token_id": 0,
        "pad_token_id": 5,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "mask": MASK,
        **options,
        "plan_options": {"assistant": assistant, **options.get("plan_options", {})},
    }
    output = decode(engine_of, PROMPTS, vocab_size=VOCAB, seed=seed, **options)
    return output, [engine.calls for engine in engines]


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
@settings(max_examples=40)
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
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), choice=st.sampled_from(list(CHOICES)))
def test_functions_of_users_see_no_draft_that_is_wrong(drafting, seed, choice):
    def run(**more):
        seen: set[tuple[int, ...]] = set()

        def stops(input_ids, scores):
            seen.update(tuple(row) for row in input_ids.tolist())
            assert len(scores) == input_ids.shape[1] - 5
            return np.array([row[-3:].sum() % 5 == 4 for row in input_ids])

        def process(input_ids, scores):
            if drafting == "lookup":  # others choose their drafts by it, too
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


@pytest.mark.parametrize("choice", CHOICES)
def test_all_drafts_of_the_model_itself_are_accepted(choice):
    options = {"eos_token_id": None, "max_new_tokens": 21, **CHOICES[choice]}
    drafting = {**DRAFTING["same"], "assistant_confidence_threshold": 0.0}
    _, calls = write(5, **options, **drafting)
    # One token after the prompt, then four drafts and one more in each of four calls.
    assert calls == [4, 16]


def test_a_threshold_ends_drafts_that_the_assistant_doubts():
    options = {"eos_token_id": None, "max_new_tokens": 21}
    _, sure = write(5, **options, **ASSISTED, assistant_confidence_threshold=0.0)
    _, doubting = write(5, **options, **ASSISTED, assistant_confidence_threshold=1.0)
    assert doubting[1] <= doubting[0]  # one draft a call: the first is always doubted
    assert sure[1] > sure[0]


def test_a_heuristic_schedule_follows_what_was_accepted():
    options = {"eos_token_id": None, "max_new_tokens": 40, "assistant_confidence_threshold": 0.0}
    growing = {**DRAFTING["same"], "num_assistant_tokens_schedule": "heuristic"}
    _, calls = write(5, **options, **growing)
    # After the first token: 5, 7, 9, 9 and 9 tokens; four drafts grow to eight, twice as many.
    assert calls[0] == 5
    bad = {**options, **ASSISTED, "differs": 9}
    _, constant = write(5, **bad)
    _, adapted = write(5, **bad, num_assistant_tokens_schedule="heuristic_transient")
    assert adapted[1] / adapted[0] < constant[1] / constant[0]


def test_a_call_has_its_own_options_or_those_of_its_assistant():
    assistant = GenerationConfig(num_assistant_tokens=7, assistant_confidence_threshold=0.2)
    config = GenerationConfig(num_assistant_tokens=3)
    assert AssistantOptions.of(config, assistant) == (3, "constant", 0.2)
    assert AssistantOptions.of(GenerationConfig(), assistant) == (7, "constant", 0.2)


def test_sampled_drafts_are_drawn_from_the_distribution_of_the_model():
    """The second and third tokens of 100,000 texts, most of them accepted drafts."""
    prompt, rows, counts = np.array([[1, 2]], np.int32), 10_000, np.zeros(VOCAB**2, int)
    model = CountingEngine(NUMPY_OPS, prompt, 3)
    for seed in range(10):
        texts = decode(
            lambda ops: AssistedEngine(
                CountingEngine(ops, prompt, 3), AssistantEngine(ops, prompt, 3, True)
            ),
            prompt,
            vocab_size=VOCAB,
            plan_options={"assistant": GenerationConfig(num_assistant_tokens=2)},
            assistant_confidence_threshold=0.0,
            do_sample=True,
            top_k=0,
            num_return_sequences=rows,
            max_new_tokens=3,
            seed=seed,
        )
        counts += np.bincount(texts[:, 3] * VOCAB + texts[:, 4], minlength=VOCAB**2)
    expected = np.zeros(VOCAB**2)
    for text in itertools.product(range(VOCAB), repeat=3):
        expected[text[1] * VOCAB + text[2]] += np.exp(model.log_probability([1, 2], list(text)))
    assert_drawn_from(expected, counts)


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
    values = Settings(ids, np.ones((1, 24), bool), ids.shape[1], 24, [], 0, (), (), (), 0, 1.0)
    state = strategy.init(NUMPY_OPS, values, VOCAB_SIZE)
    state = strategy.redraft(NUMPY_OPS, state, state.count, values)
    assert read(state.drafts[:, : state.count[0]]) == [expected]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_beams": 2}, "num_beams > 1"),
        ({"use_cache": False}, "use_cache=False"),
    ],
)
@pytest.mark.parametrize("drafting", DRAFTING)
def test_what_cannot_be_combined_is_refused(drafting, other, message):
    with pytest.raises(InvalidInputError, match=f"cannot be combined with {message}"):
        write(0, **DRAFTING[drafting], **other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt_lookup_num_tokens", 0),
        ("max_matching_ngram_size", 0),
        ("num_assistant_tokens", 0),
        ("num_assistant_tokens_schedule", "linear"),
        ("assistant_confidence_threshold", 1.5),
        ("assistant_early_exit", 0),
    ],
)
def test_options_of_drafts_are_checked(name, value):
    with pytest.raises(InvalidInputError, match=f"^{name} "):
        write(0, **{name: value})
