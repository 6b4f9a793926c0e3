"""Plans: lengths, what is refused, and whose processors and limits count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    EosTokenCriteria,
    GenerationConfig,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)
from gpt2x.generation.lengths import bucket, shortest_length, total_length
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.plan import make_plan
from gpt2x.generation.prompt import bos_token, infer_mask, padding_first, refuse_arguments
from gpt2x.generation.strategies import BeamSearch, Greedy, Sample
from support.decoding import decode
from support.fake_engine import VOCAB_SIZE, SpellingEngine, read, spell


def plan_for(prompt_length=4, n_positions=40, vocab_size=30, batch_size=1, **options):
    fields = {name: options.pop(name) for name in list(options) if name in vars(GenerationConfig())}
    return make_plan(
        GenerationConfig(**fields),
        batch_size=batch_size,
        prompt_length=prompt_length,
        n_positions=n_positions,
        vocab_size=vocab_size,
        **options,
    )


@pytest.mark.parametrize(
    ("fields", "prompt", "hidden", "expected"),
    [
        ({}, 4, 0, 24),
        ({}, 35, 0, 40),  # as far as there are positions
        ({"max_length": 20}, 4, 0, 20),  # the default's value, but given: the total
        ({"max_length": 41}, 4, 0, 41),  # the last token needs no position
        ({"max_new_tokens": 3}, 4, 0, 7),
        ({"max_new_tokens": 3, "max_length": 30}, 4, 0, 7),
        ({"max_new_tokens": 3}, 0, 4, 3),
        ({"max_length": 20}, 0, 4, 16),
        ({}, 0, 4, 20),
    ],
)
def test_length_rules(fields, prompt, hidden, expected):
    assert total_length(GenerationConfig(**fields), prompt, 40, hidden) == expected


@pytest.mark.parametrize(
    ("fields", "prompt", "message"),
    [
        ({}, 41, "has 41 tokens, but the model has 40 positions"),
        ({}, 40, "no room for a new one"),
        ({"max_length": 4}, 4, "max_length=4 is the total length"),
        ({"max_length": 42}, 4, "can write at most 41"),
        ({"max_new_tokens": 38}, 4, "max_new_tokens=38 after a prompt of 4 tokens asks for 42"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(fields, prompt, message):
    with pytest.raises(InvalidInputError, match=message):
        total_length(GenerationConfig(**fields), prompt, 40)


@pytest.mark.parametrize(
    ("fields", "hidden", "expected"),
    [
        ({}, 0, 0),
        ({"min_length": 9}, 0, 9),
        ({"min_new_tokens": 2}, 0, 6),
        ({"min_new_tokens": 2, "min_length": 9}, 0, 6),  # the new tokens win, as for the maximum
        ({"min_new_tokens": 0, "min_length": 9}, 0, 0),
        ({"min_length": 9}, 3, 6),
        ({"min_length": 2}, 3, 0),
        ({"min_new_tokens": 2}, 3, 6),
    ],
)
def test_rules_of_the_shortest_length(fields, hidden, expected):
    assert shortest_length(GenerationConfig(**fields), 4, 20, hidden) == expected


@pytest.mark.parametrize("name", ["min_length", "min_new_tokens"])
def test_a_shortest_length_beyond_the_end_warns(name):
    with pytest.warns(UserWarning, match=rf"{name} .50. asks for more"):
        plan_for(eos_token_id=1, **{name: 50})


@given(length=st.integers(1, 1000), limit=st.integers(1, 1000))
def test_buckets_are_few_and_large_enough(length, limit):
    size = bucket(length, limit)
    assert min(length, limit) <= size <= limit
    assert size == limit or size in (16, 32, 64, 128, 256, 512, 1024)


def test_the_strategy_follows_the_config():
    assert type(plan_for().strategy) is Greedy
    assert type(plan_for(do_sample=True).strategy) is Sample
    beams = plan_for(num_beams=3, num_return_sequences=2, batch_size=2)
    assert type(beams.strategy) is BeamSearch
    assert beams.rows == 6


def test_values_are_no_part_of_the_static_strategy():
    def strategy(**fields):
        return plan_for(do_sample=True, buckets=True, eos_token_id=1, **fields).strategy

    first = strategy(temperature=0.5, top_p=0.9, repetition_penalty=1.2, max_new_tokens=5, top_k=5)
    second = strategy(
        temperature=0.7,
        top_p=0.8,
        repetition_penalty=1.4,
        max_new_tokens=9,
        top_k=9,
        prompt_length=6,
    )
    assert first == second
    assert first != strategy(temperature=0.5)


def test_what_is_not_available_is_refused_and_what_is_is_named():
    message = "assistant_tokenizer, which is not available. Available are greedy search"
    with pytest.raises(InvalidInputError, match=message):
        refuse_arguments(synced_gpus=False, assistant_tokenizer=object())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"suppress_tokens": [3, 30]}, "token id 30, but the vocabulary has the ids 0 to 29"),
        ({"bad_words_ids": [[1, 99]]}, None),
        ({"forced_eos_token_id": 31}, "token id 31"),
        ({"pad_token_id": 30}, "pad_token_id is 30"),
        ({"stop_strings": "x"}, "needs a tokenizer"),
        ({"logits_processor": [3]}, "logits_processor must be"),
        ({"stopping_criteria": [3]}, "stopping_criteria must be"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(fields, message):
    names = {"logits_processor": "user_processors"}
    fields = {names.get(name, name): value for name, value in fields.items()}
    with pytest.raises(InvalidInputError, match=message):
        plan_for(eos_token_id=1, **fields)


def test_a_users_processor_replaces_the_built_in_one_of_its_class():
    plan = plan_for(
        eos_token_id=1,
        min_length=9,
        suppress_tokens=[2],
        user_processors=[MinLengthLogitsProcessor(12, 1), TemperatureLogitsWarper(2.0)],
    )
    kinds = [type(processor) for processor in plan.processors]
    assert kinds == [
        MinLengthLogitsProcessor,
        SuppressTokensLogitsProcessor,
        TemperatureLogitsWarper,
    ]
    assert plan.processors[0].values["min_length"] == 12


@pytest.mark.parametrize("with_length", [False, True])
def test_users_processors_are_called_in_the_form_of_their_framework(with_length):
    calls = []

    def processor(input_ids, scores, *length):
        calls.append((input_ids.shape, *length))
        return np.where(np.arange(VOCAB_SIZE) == 5, 100.0, scores).astype(np.float32)

    texts = decode(
        lambda ops: SpellingEngine(ops, ["abc"], 1),
        spell("a"),
        vocab_size=VOCAB_SIZE,
        max_new_tokens=2,
        plan_options={"user_processors": processor, "with_length": with_length},
    )
    assert read(texts) == ["aee"]
    assert calls == ([((1, 3), 1), ((1, 3), 2)] if with_length else [((1, 1),), ((1, 2),)])


def test_a_subclass_of_a_built_in_processor_means_its_own_call():
    class Mine(TemperatureLogitsWarper):
        def __call__(self, input_ids, scores):
            return scores * 0 + np.eye(VOCAB_SIZE, dtype=np.float32)[7]

    texts = decode(
        lambda ops: SpellingEngine(ops, ["abc"], 1),
        spell("a"),
        vocab_size=VOCAB_SIZE,
        max_new_tokens=2,
        plan_options={"user_processors": [Mine(2.0)]},
    )
    assert read(texts) == ["agg"]


def test_criteria_of_built_in_kinds_override_the_config():
    plan = plan_for(
        eos_token_id=1, stopping_criteria=[MaxLengthCriteria(9), EosTokenCriteria([2, 3])]
    )
    assert (plan.max_length, plan.eos) == (9, [2, 3])
    assert not plan.strategy.host


def test_prefixes_constrain_every_row():
    calls = []

    def allowed(prompt, tokens):
        calls.append((prompt, len(tokens)))
        return [3, 4] if prompt == 0 else [5]

    options = {"prefix_allowed_tokens_fn": allowed}
    texts = decode(
        lambda ops: SpellingEngine(ops, ["abd", "xyz"], 1),
        spell("a", "x"),
        vocab_size=VOCAB_SIZE,
        num_beams=2,
        max_new_tokens=2,
        plan_options=options,
    )
    assert read(texts) == ["acd", "xee"]
    assert (1, 1) in calls
    assert plan_for(prefix_allowed_tokens_fn=allowed).strategy.host
    with pytest.raises(InvalidInputError, match="at least one token"):
        decode(
            lambda ops: SpellingEngine(ops, ["abd"], 1),
            spell("a"),
            vocab_size=VOCAB_SIZE,
            plan_options={"prefix_allowed_tokens_fn": lambda prompt, tokens: []},
        )


def test_padding_never_counts_as_text():
    alone, padded = spell("aba"), spell("ccaba")
    options = {
        "vocab_size": VOCAB_SIZE,
        "max_new_tokens": 3,
        "no_repeat_ngram_size": 1,
    }
    expected = decode(lambda ops: SpellingEngine(ops, ["xxxccc"], 3), alone, **options)
    found = decode(
        lambda ops: SpellingEngine(ops, ["xxxxxccc"], 5),
        padded,
        mask=np.array([[0, 0, 1, 1, 1]]),
        **options,
    )
    np.testing.assert_array_equal(found[:, 2:], expected)
    unmasked = decode(lambda ops: SpellingEngine(ops, ["xxxxxccc"], 5), padded, **options)
    assert (unmasked != found).any()


def test_a_prompt_in_a_bucket_writes_what_it_writes_without():
    prompt = spell("ab")
    plan = make_plan(
        GenerationConfig(max_new_tokens=3, repetition_penalty=1.1),
        batch_size=1,
        prompt_length=2,
        n_positions=64,
        vocab_size=VOCAB_SIZE,
        buckets=True,
    )
    assert (plan.strategy.capacity, plan.strategy.steps) == (16, 16)
    in_bucket = np.concatenate([prompt, np.full((1, 14), 9, np.int32)], axis=1)
    settings = plan.settings(NUMPY_OPS, in_bucket, np.ones_like(in_bucket), ())
    buffer = plan.strategy.prompt_buffer(NUMPY_OPS, settings, 0)
    assert buffer.tolist() == [[1, 2] + [0] * 14]
    assert settings.real.all()


def test_masks_are_inferred_only_where_padding_is_certain():
    ids = np.array([[2, 2, 5], [4, 5, 6]])
    mask = infer_mask(ids, GenerationConfig(pad_token_id=2, eos_token_id=9))
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert infer_mask(ids, GenerationConfig(pad_token_id=2, eos_token_id=[9, 2])) is None
    assert infer_mask(ids, GenerationConfig(pad_token_id=8, eos_token_id=9)) is None
    assert infer_mask(ids, GenerationConfig(eos_token_id=2)) is None


def pad_first(ids, mask, **arguments):
    ids, mask = padding_first(np.array(ids), np.array(mask), arguments)
    return ids.tolist(), mask.tolist(), {k: v.tolist() for k, v in arguments.items()}


def test_padding_at_the_end_of_a_prompt_moves_to_its_start():
    ids, mask = (
        [[0, 5, 6, 7], [7, 8, 0, 0], [4, 0, 5, 0]],
        [[0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]],
    )
    types = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
    assert pad_first(ids, mask, token_type_ids=types) == (
        [[0, 5, 6, 7], [0, 0, 7, 8], [0, 4, 0, 5]],
        [[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]],
        {"token_type_ids": [[0, 1, 2, 3], [2, 3, 0, 1], [3, 0, 1, 2]]},
    )
    assert pad_first([[0, 5], [0, 7]], [[0, 1], [0, 9]])[0] == [[0, 5], [0, 7]]


@pytest.mark.parametrize(
    ("mask", "arguments", "message"),
    [
        ([[1, 1], [0, 0]], {}, "all of prompt 1 as padding"),
        ([[1, 1], [1, 0]], {"inputs_embeds": None}, "end of prompt 1 as padding.*inputs_embeds"),
        ([[1, 1], [1, 0]], {"past_key_values": None}, "prompt 1 .* where past_key_values are"),
        ([[1, 1], [1, 0]], {"position_ids": np.zeros((1, 2))}, "position_ids has shape"),
    ],
)
def test_padding_that_cannot_be_moved_is_refused(mask, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        pad_first([[3, 4], [5, 6]], mask, **arguments)


def test_an_empty_prompt_needs_a_bos():
    assert bos_token(GenerationConfig(bos_token_id=3)) == 3
    with pytest.raises(InvalidInputError, match="bos_token_id, which is not set"):
        bos_token(GenerationConfig())


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_eos_beyond_the_vocabulary_never_comes(num_beams):
    """As in a small model whose config holds GPT-2's own: no text ends, so none is padded."""
    fields = {"num_beams": num_beams, "max_new_tokens": 5, "do_sample": False}
    plan = plan_for(eos_token_id=50256, min_new_tokens=3, batch_size=2, **fields)
    assert plan.fill == plan_for(batch_size=2, **fields).fill == 0
    assert not plan.processors
    with pytest.raises(InvalidInputError, match="pad_token_id is 50256"):
        plan_for(eos_token_id=[50256, 7], **fields)


@pytest.mark.parametrize("strategy", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_negative_special_tokens_are_none(strategy):
    plan = plan_for(eos_token_id=7, pad_token_id=-1, batch_size=2, **strategy)
    assert (plan.eos, plan.fill) == ([7], 7)
    plan = plan_for(eos_token_id=[-1, 7], batch_size=2, **strategy)
    assert (plan.eos, plan.fill) == ([7], 7)
    plan = plan_for(eos_token_id=-1, pad_token_id=-1, min_length=5, batch_size=2, **strategy)
    assert (plan.eos, plan.fill) == ([], 0)
    with pytest.raises(InvalidInputError, match="bos_token_id, which is not set"):
        bos_token(GenerationConfig(bos_token_id=-1))


@pytest.mark.parametrize(
    ("eos", "pad", "greedy", "beams"), [(7, 0, 0, 7), (7, 5, 5, 5), (None, 0, 0, 0), (0, 0, 0, 0)]
)
def test_beams_take_the_eos_where_the_pad_id_is_0(eos, pad, greedy, beams):
    """As transformers' beam search, which takes a pad id of 0 for none."""
    fields = {"eos_token_id": eos, "pad_token_id": pad, "batch_size": 2}
    assert plan_for(**fields).fill == greedy
    assert plan_for(num_beams=2, **fields).fill == beams


def test_rows_that_criteria_end_need_a_pad_token_of_the_vocabulary():
    def criterion(input_ids, scores):
        return [False] * len(input_ids)

    options = {"eos_token_id": 50256, "stopping_criteria": [criterion]}
    assert plan_for(**options).fill == 0
    with pytest.raises(InvalidInputError, match="pad_token_id is 50256"):
        plan_for(batch_size=2, **options)
