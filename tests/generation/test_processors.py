"""Logits processors: against transformers' own, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    ForceTokensLogitsProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    framework_names,
)
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.plan import make_plan
from gpt2x.generation.processors.base import Context
from gpt2x.generation.processors.warpers import PAIRWISE_LIMIT, leading_mass
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import Sample
from support.golden_data import case_names, load_case

INF = float("inf")


@pytest.mark.parametrize("name", case_names("logits_processors/ids"))
def test_processors_of_the_text_match_transformers(name):
    _assert_scores(load_case(name))


@pytest.mark.parametrize("name", case_names("logits_processors/sampling"))
def test_processors_of_sampling_match_transformers(name):
    _assert_scores(load_case(name))


def _assert_scores(case):
    """Apply what `generate` would apply in the step after `input_ids`."""
    ids, logits = case.inputs["input_ids"].astype(np.int32), case.inputs["logits"]
    config = GenerationConfig(**{"max_length": 60, **case.settings["generate"]})
    plan = make_plan(
        config,
        batch_size=len(ids),
        prompt_length=case.settings["prompt_length"],
        n_positions=64,
        vocab_size=logits.shape[1],
    )
    keys = streams(0, plan.rows).keys(NUMPY_OPS) if plan.samples else ()
    settings = plan.settings(NUMPY_OPS, ids[:, : plan.prompt_length], None, keys)
    buffer = np.zeros((len(ids), plan.strategy.capacity), np.int32)
    buffer[:, : ids.shape[1]] = ids
    context = Context(buffer, settings.real, ids.shape[1])
    scores = plan.strategy.processors(NUMPY_OPS, logits, context, settings.processors)
    if isinstance(plan.strategy, Sample):
        strategy = Sample(**{**vars(plan.strategy), "keep_scores": True})
        _, scores = strategy.choose(NUMPY_OPS, scores, 0, context, settings)
    np.testing.assert_allclose(scores, case.outputs["scores"], rtol=1e-5, atol=1e-5)


texts = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(tokens=texts, padding=st.integers(0, 3), spare=st.integers(0, 3), size=st.integers(1, 4))
def test_no_repeat_ngram_bans_what_a_plain_search_finds(tokens, padding, spare, size):
    expected = {
        tokens[start + size - 1]
        for start in range(len(tokens) - size + 1)
        if tokens[start : start + size - 1] == (tokens[-(size - 1) :] if size > 1 else [])
    }
    scores = _apply(NoRepeatNGramLogitsProcessor(size), tokens, padding, spare)
    assert set(np.flatnonzero(scores == -INF)) == expected


@given(
    tokens=texts,
    padding=st.integers(0, 3),
    spare=st.integers(0, 3),
    biases=st.dictionaries(
        st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
        st.floats(-5, 5, width=32),
        min_size=1,
        max_size=6,
    ),
)
def test_sequence_bias_adds_what_a_plain_search_finds(tokens, padding, spare, biases):
    expected = np.zeros(6)
    for sequence, bias in biases.items():
        prefix = list(sequence[:-1])
        if len(sequence) <= len(tokens) and tokens[len(tokens) - len(prefix) :] == prefix:
            expected[sequence[-1]] += bias
    scores = _apply(SequenceBiasLogitsProcessor(biases), tokens, padding, spare)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@given(tokens=texts, padding=st.integers(0, 3), spare=st.integers(0, 3))
def test_repetition_penalty_sees_text_but_no_padding(tokens, padding, spare):
    penalised = _apply(RepetitionPenaltyLogitsProcessor(2.0), tokens, padding, spare, level=1.0)
    assert set(np.flatnonzero(penalised == 0.5)) == set(tokens)
    assert set(np.flatnonzero(penalised == 1.0)) == {0, 1, 2, 3, 4, 5} - set(tokens)


def test_repetition_penalty_may_leave_the_prompt_out():
    ids, ones = np.array([[1, 2, 3]], np.int32), np.ones((1, 5), np.float32)
    penalised = RepetitionPenaltyLogitsProcessor(2.0, prompt_ignore_length=2)(ids, ones)
    assert penalised.tolist() == [[1.0, 1.0, 1.0, 0.5, 1.0]]
    everything = RepetitionPenaltyLogitsProcessor(2.0, prompt_ignore_length=0)(ids, ones)
    assert everything.tolist() == [[1.0, 0.5, 0.5, 0.5, 1.0]]


def test_a_device_may_be_given_as_in_transformers():
    ids, scores = np.array([[1, 2]], np.int32), np.zeros((1, 4), np.float32)
    for processor in (
        MinLengthLogitsProcessor(5, 3, device="cpu"),
        MinNewTokensLengthLogitsProcessor(2, 3, eos_token_id=[3], device="cpu"),
        SuppressTokensLogitsProcessor([3], device="cpu"),
        SuppressTokensAtBeginLogitsProcessor([3], 2, device="cpu"),
    ):
        assert processor(ids, scores).tolist() == [[0, 0, 0, -INF]]
    forced = ForcedEOSTokenLogitsProcessor(3, 3, device="cpu")(ids, scores)
    assert forced.tolist() == [[-INF, -INF, -INF, 0]]
    assert EtaLogitsWarper(0.1, device="cpu")(ids, scores).tolist() == [[0, 0, 0, 0]]


def _apply(processor, tokens, padding, spare, level=0.0):
    """Apply a processor where the text is padded by 5s and the buffer goes on with 4s: [6]."""
    row = [5] * padding + tokens + [4] * spare
    real = [False] * padding + [True] * (len(tokens) + spare)
    context = Context(np.array([row], np.int32), np.array([real]), length=padding + len(tokens))
    scores = np.full((1, 6), level, np.float32)
    return processor.apply(NUMPY_OPS, scores, context, processor.static, processor.values)[0]


@given(
    scores=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12, unique=True),
    top_p=st.floats(0, 0.999),
)
def test_top_p_keeps_the_smallest_set_with_enough_mass(scores, top_p):
    row = np.array([scores], np.float32)
    kept = np.isfinite(TopPLogitsWarper(top_p)(np.zeros((1, 1), np.int32), row)[0])
    probabilities = np.exp(row[0].astype(np.float64) - row.max())
    probabilities /= probabilities.sum()
    mass = probabilities[kept].sum()
    assert mass >= top_p - 1e-5
    assert mass - probabilities[kept].min() < top_p + 1e-5 or kept.sum() == 1
    assert row[0][kept].min() > (row[0][~kept].max() if (~kept).any() else -INF)


@given(seed=st.integers(0, 2**32 - 1), mass=st.floats(0.01, 0.99))
def test_bisection_and_pairwise_comparison_keep_the_same(seed, mass):
    generator = np.random.default_rng(seed)
    narrow = generator.normal(0, 3, (3, PAIRWISE_LIMIT)).astype(np.float32).round(1)
    narrow[:, ::7] = -INF
    wide = np.concatenate([narrow, np.full((3, 40), -INF, np.float32)], axis=1)
    weights = np.exp(narrow - narrow.max())
    weights /= weights.sum(axis=1, keepdims=True)
    wide_weights = np.concatenate([weights, np.zeros((3, 40), np.float32)], axis=1)
    pairwise = leading_mass(NUMPY_OPS, narrow, weights, mass)
    bisected = leading_mass(NUMPY_OPS, wide, wide_weights, mass)[:, :PAIRWISE_LIMIT]
    np.testing.assert_array_equal(pairwise, bisected)


def test_top_k_keeps_ties():
    scores = np.array([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]], np.float32)
    kept = np.isfinite(TopKLogitsWarper(2)(np.zeros((1, 1), np.int32), scores))
    assert kept.tolist() == [[False, True, True, True, True, False]]


def test_filters_keep_as_many_tokens_as_they_must():
    scores = np.array([[0.0, 1.0, 9.0, 2.0]], np.float32)
    for warper in (
        TopKLogitsWarper(1, min_tokens_to_keep=2),
        TopPLogitsWarper(0.1, min_tokens_to_keep=2),
        MinPLogitsWarper(0.9, filter_value=-INF, min_tokens_to_keep=2),
    ):
        kept = np.isfinite(warper(np.zeros((1, 1), np.int32), scores))
        assert kept.tolist() == [[False, False, True, True]]


def test_a_forbidden_eos_stays_forbidden_under_exponential_decay():
    penalty = ExponentialDecayLengthPenalty((1, 1.5), 0, 1)
    scores = np.array([[-INF, 1.0]], np.float32)
    processed = penalty(np.zeros((1, 5), np.int32), scores)
    assert processed.tolist() == [[-INF, 1.0]]


def test_an_eos_alone_is_not_a_bad_word():
    scores = np.zeros((1, 4), np.float32)
    processor = NoBadWordsLogitsProcessor([[1], [2]], eos_token_id=1)
    assert processor(np.zeros((1, 1), np.int32), scores).tolist() == [[0, 0, -INF, 0]]
    processor = NoBadWordsLogitsProcessor([[1]], eos_token_id=1)
    assert processor(np.zeros((1, 1), np.int32), scores).tolist() == [[0, 0, 0, 0]]


def test_processors_can_be_called_with_a_longer_buffer():
    processor = MinLengthLogitsProcessor(3, eos_token_id=0)
    scores = np.zeros((1, 2), np.float32)
    ids = np.zeros((1, 8), np.int32)
    assert processor(ids, scores, 2).tolist() == [[-INF, 0]]
    assert processor(ids, scores).tolist() == [[0, 0]]


def test_options_are_attributes_by_the_names_of_transformers():
    def allowed(prompt, tokens):
        return [0]

    expected = [
        (TemperatureLogitsWarper(0.5), {"temperature": 0.5}),
        (TopKLogitsWarper(2, -9.0, 3), {"top_k": 3, "filter_value": -9.0}),
        (TopPLogitsWarper(0.8, -9.0, 2), {"top_p": 0.8, "min_tokens_to_keep": 2}),
        (MinPLogitsWarper(0.8), {"min_p": 0.8, "filter_value": -INF, "min_tokens_to_keep": 1}),
        (TypicalLogitsWarper(0.8), {"mass": 0.8}),
        (EpsilonLogitsWarper(0.8), {"epsilon": 0.8}),
        (EtaLogitsWarper(0.8), {"epsilon": 0.8}),
        (RepetitionPenaltyLogitsProcessor(2.0, 3), {"penalty": 2.0, "prompt_ignore_length": 3}),
        (NoRepeatNGramLogitsProcessor(ngram_size=2), {"ngram_size": 2}),
        (SequenceBiasLogitsProcessor([[[4, 6], -0.5]]), {"sequence_bias": {(4, 6): -0.5}}),
        (NoBadWordsLogitsProcessor([[1], [2, 3]]), {"bad_word_ids": [[1], [2, 3]]}),
        (MinLengthLogitsProcessor(5, eos_token_id=3), {"min_length": 5, "eos_token_id": [3]}),
        (
            MinNewTokensLengthLogitsProcessor(2, min_new_tokens=5, eos_token_id=[3, 4]),
            {"prompt_length_to_skip": 2, "min_new_tokens": 5, "eos_token_id": [3, 4]},
        ),
        (ForcedBOSTokenLogitsProcessor(bos_token_id=3), {"bos_token_id": 3}),
        (ForcedEOSTokenLogitsProcessor(9, 3), {"max_length": 9, "eos_token_id": [3]}),
        (ForceTokensLogitsProcessor([[2, 7]]), {"force_token_array": [-1, -1, 7]}),
        (
            ExponentialDecayLengthPenalty((5, 1.1), 3, input_ids_seq_length=10),
            {"regulation_start": 15, "regulation_factor": 1.1, "eos_token_id": [3]},
        ),
        (SuppressTokensLogitsProcessor([220, 7]), {"suppress_tokens": [220, 7]}),
        (
            SuppressTokensAtBeginLogitsProcessor([220, 7], 4),
            {"begin_suppress_tokens": [220, 7], "begin_index": 4},
        ),
        (
            PrefixConstrainedLogitsProcessor(allowed, num_beams=3),
            {"_prefix_allowed_tokens_fn": allowed, "_num_beams": 3},
        ),
    ]
    for processor, attributes in expected:
        for name, value in attributes.items():
            found = getattr(processor, name)
            assert (found.tolist() if hasattr(found, "tolist") else found) == value, name


def test_options_may_be_changed_afterwards():
    scores, ids = np.ones((1, 3), np.float32), np.zeros((1, 2), np.int32)
    warper = TemperatureLogitsWarper(1.0)
    warper.temperature = 0.5
    assert warper(ids, scores).tolist() == [[2, 2, 2]]
    begin = SuppressTokensAtBeginLogitsProcessor([1], 5)
    begin.set_begin_index(2)
    assert begin(ids, scores).tolist() == [[1, -INF, 1]]


def test_processors_of_sampling_need_no_tokens():
    scores = np.array([[0.0, 1.0, 2.0]], np.float32)
    assert TopKLogitsWarper(1)(None, scores).tolist() == [[-INF, -INF, 2]]
    with pytest.raises(InvalidInputError, match="NoRepeatNGramLogitsProcessor needs input_ids"):
        NoRepeatNGramLogitsProcessor(2)(None, scores)


def test_processors_of_a_prompt_take_its_tokens():
    prompts = np.array([[1, 2], [3, 3]], np.int32)
    texts = np.array([[9, 1], [9, 2], [1, 3], [2, 3]], np.int32)  # two rows a prompt
    scores = np.ones((4, 5), np.float32)
    favour = EncoderRepetitionPenaltyLogitsProcessor(penalty=2.0, encoder_input_ids=prompts)
    assert favour.penalty == 0.5
    assert favour.encoder_input_ids is prompts
    assert favour(texts, scores).tolist() == [[1, 2, 2, 1, 1]] * 2 + [[1, 1, 1, 2, 1]] * 2
    ban = EncoderNoRepeatNGramLogitsProcessor(encoder_ngram_size=2, encoder_input_ids=prompts)
    assert ban.ngram_size == 2
    banned = [np.flatnonzero(row == -INF).tolist() for row in ban(texts, scores)]
    assert banned == [[2], [], [3], [3]]
    one = EncoderNoRepeatNGramLogitsProcessor(2, prompts[0])
    assert np.flatnonzero(one(texts, scores)[0] == -INF).tolist() == [2]


def test_tokens_that_the_vocabulary_lacks_are_refused_except_for_an_eos():
    ids, scores = np.zeros((1, 2), np.int32), np.ones((1, 3), np.float32)
    with pytest.raises(InvalidInputError, match="token id 3, but the vocabulary has the ids 0 to"):
        SequenceBiasLogitsProcessor({(3,): 1.0})(ids, scores)
    assert MinLengthLogitsProcessor(9, [1, 50256])(ids, scores).tolist() == [[1, -INF, 1]]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scores_of_every_dtype_keep_it(dtype):
    ids = np.zeros((1, 4), np.int32)
    scores = np.array([[0.5, 0.25, -1.0]], dtype)
    for processor in (
        NoBadWordsLogitsProcessor([[1]]),
        ForcedEOSTokenLogitsProcessor(5, 2),
        TopPLogitsWarper(0.5),
        RepetitionPenaltyLogitsProcessor(2.0),
    ):
        processed = processor(ids, scores)
        assert processed.dtype == dtype
        expected = processor(ids, scores.astype(np.float32))
        np.testing.assert_array_equal(processed, expected.astype(dtype))


def test_more_tokens_to_keep_than_there_are_keep_all():
    scores = np.array([[0.5, 0.25, -1.0]], np.float32)
    for warper in (EpsilonLogitsWarper, MinPLogitsWarper, TypicalLogitsWarper, TopPLogitsWarper):
        assert np.isfinite(warper(0.9, min_tokens_to_keep=9)(None, scores)).all()


def test_forced_tokens():
    forced = ForceTokensLogitsProcessor({1: 2, 3: None, 4: 0})
    scores = np.ones((2, 3), np.float32)
    for length, expected in [(0, [1, 1, 1]), (1, [-INF, -INF, 0]), (3, [1, 1, 1])]:
        assert forced(np.zeros((2, length), np.int32), scores).tolist() == [expected] * 2
    assert forced(np.zeros((2, 9), np.int32), scores, 4).tolist() == [[0, -INF, -INF]] * 2
    assert forced(np.zeros((2, 9), np.int32), scores).tolist() == [[1, 1, 1]] * 2


def test_top_p_cuts_as_transformers_where_probabilities_add_up_exactly():
    for scale in (1, 100):  # below and above the width of pairwise comparison
        probabilities = np.array([[0.3, 0.1, 0.1, 0.5] + [0.0] * 3 * scale], np.float32)
        with np.errstate(divide="ignore"):
            kept = np.isfinite(TopPLogitsWarper(0.8)(None, np.log(probabilities)))
        assert np.flatnonzero(kept).tolist() == [0, 3]


def test_the_names_for_tensorflow_and_flax_are_the_same_classes():
    assert framework_names.TFTopKLogitsWarper is framework_names.FlaxTopKLogitsWarper
    names = {n: cls for n, cls in vars(framework_names).items() if n.startswith(("TF", "Flax"))}
    assert len(names) == 27
    for name, cls in names.items():
        assert name in ("TF" + cls.__name__, "Flax" + cls.__name__) or name.endswith("LogitsWarper")


def test_a_list_gives_each_processor_the_keywords_that_it_takes():
    class Plain(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores * 2

    class Shift(LogitsProcessor):
        def __call__(self, input_ids, scores, shift):
            return scores + shift

    ids, scores = np.zeros((1, 5), np.int32), np.ones((1, 2), np.float32)
    both = LogitsProcessorList([Plain(), Shift(), MinLengthLogitsProcessor(3, 0)])
    assert both(ids, scores, shift=3).tolist() == [[5, 5]]
    assert both(ids, scores, shift=3, cur_len=2).tolist() == [[-INF, 5]]
    with pytest.raises(InvalidInputError, match="Shift needs 'shift'"):
        both(ids, scores)


def test_a_list_of_processors_is_called_in_order():
    class Double(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores * 2

    processors = LogitsProcessorList([TemperatureLogitsWarper(0.5), Double()])
    scores = processors(np.zeros((1, 1), np.int32), np.ones((1, 2), np.float32))
    assert scores.tolist() == [[4, 4]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemperatureLogitsWarper(0.0), "`temperature` must be a number above 0"),
        (lambda: TemperatureLogitsWarper("1"), "`temperature` must be a number above 0"),
        (lambda: TopKLogitsWarper(0), "`top_k` must be an integer above 0"),
        (lambda: TopPLogitsWarper(1.5), "`top_p` must be a number from 0 to 1"),
        (lambda: TopPLogitsWarper(0.5, -INF, 0), "`min_tokens_to_keep` must be an integer above"),
        (lambda: MinNewTokensLengthLogitsProcessor(-1, 2, 0), "`prompt_length_to_skip` must be"),
        (lambda: EncoderNoRepeatNGramLogitsProcessor(0, [1]), "`encoder_ngram_size` must be"),
        (lambda: ForceTokensLogitsProcessor([]), "`force_token_map` must be a non-empty dict"),
        (lambda: RepetitionPenaltyLogitsProcessor(-1.0), "`repetition_penalty` must be"),
        (lambda: RepetitionPenaltyLogitsProcessor(2.0, -1), "`prompt_ignore_length` must be"),
        (lambda: NoBadWordsLogitsProcessor([]), "`bad_words_ids` must be a non-empty list"),
        (lambda: NoBadWordsLogitsProcessor([[-1]]), "`bad_words_ids` must hold token ids"),
        (lambda: NoBadWordsLogitsProcessor([1]), r"must hold sequences .* write \[1\]"),
        (lambda: SequenceBiasLogitsProcessor({1: 2.0}), "`sequence_bias` must hold sequences"),
        (lambda: SequenceBiasLogitsProcessor({}), "`sequence_bias` must be a non-empty dict"),
        (lambda: ExponentialDecayLengthPenalty(3, 0, 1), "must be a pair"),
    ],
)
def test_values_that_cannot_be_used_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
