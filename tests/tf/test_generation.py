"""`generate` in TensorFlow: golden texts, the same ones in a graph and under XLA, and its options.

What strategies and processors do is tested without a framework (tests/generation); here it is that
they do the same on TensorFlow's arrays, and all that belongs to this backend.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf import KVCache, TFGPT2DoubleHeadsModel
from gpt2x.tf.outputs import TFGenerateBeamDecoderOnlyOutput, TFGenerateDecoderOnlyOutput
from support.contract.streaming import StreamingContract
from support.golden_data import load_case
from support.recorder import Recorder
from support.tf_models import BACKEND, golden_model, random_ids, tiny_model

CASES = [
    "plain/greedy/plain",
    "plain/greedy/left_padded",
    "plain/greedy/one_row",
    "plain/greedy/one_token_prompt",
    "plain/greedy/to_last_position",
    "plain/greedy/token_type_ids",
    "plain/greedy/inputs_embeds",
    "plain/processors/combined",
    "plain/processors/bad_words_several_left_padded",
    "plain/processors/exponential_decay",
    "plain/processors/repetition_penalty_left_padded",
    "plain/beams/return_2_of_4",
    "plain/beams/combined",
    "plain/beams/left_padded_eos",
    "plain/watermark/selfhash_left_padded",
    "plain/watermark/one_candidate",
    "plain/watermark/beams_3",
    "plain/synthid/left_padded",
    "plain/group_beams/left_padded",
    "plain/constrained_beams/left_padded",
    "plain/guidance/without_cache",
    "plain/guidance/left_padded",
    "untied/greedy/plain",
]
IDS = random_ids(3, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]], np.int32)
SAMPLING = {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.8, "seed": 5}


@pytest.fixture(scope="module")
def golden():
    """The models of the golden folders."""
    names = {"plain": "plain/greedy/plain", "untied": "untied/greedy/plain"}
    return {folder: golden_model(load_case(name)) for folder, name in names.items()}


@pytest.fixture(scope="module")
def model():
    """One layer, for a short trace; the golden models have more."""
    return tiny_model(eos_token_id=None, n_layer=1)


@pytest.mark.parametrize("name", CASES)
def test_texts_match_transformers(name, golden):
    case = load_case(name)
    options = case.settings["generate"]
    texts = golden[name.split("/")[0]].generate(**case.inputs, **options)
    assert texts.dtype == tf.int32
    np.testing.assert_array_equal(texts, case.outputs["sequences"])


def test_scores_match_transformers(golden):
    case = load_case("plain/greedy/plain")
    output = golden["plain"].generate(
        **case.inputs,
        **case.settings["generate"],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert type(output) is TFGenerateDecoderOnlyOutput
    for name in ("scores", "logits"):
        np.testing.assert_allclose(tf.stack(output[name]), case.outputs[name], rtol=1e-4, atol=1e-4)
    transitions = golden["plain"].compute_transition_scores(output.sequences, output.scores)
    np.testing.assert_allclose(transitions, case.outputs["transition_scores"], rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {**SAMPLING, "no_repeat_ngram_size": 2},
        {**SAMPLING, "num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    ],
    ids=["sampling", "beams", "group_beams"],
)
def test_the_same_texts_in_a_graph_and_under_xla(options, model):
    """In a graph, batch and length are unknown."""
    options = {**options, "max_new_tokens": 6, "pad_token_id": 0}
    eager = model.generate(IDS, attention_mask=MASK, **options).numpy()
    spec = tf.TensorSpec([None, None], tf.int32)
    graph = tf.function(
        lambda ids, mask: model.generate(ids, attention_mask=mask, **options),
        input_signature=[spec, spec],
    )
    np.testing.assert_array_equal(graph(IDS, MASK), eager)
    np.testing.assert_array_equal(
        model.generate(IDS, attention_mask=MASK, jit_compile=True, **options), eager
    )


def test_xla_compiles_a_function_that_generates(model):
    options = {**SAMPLING, "num_beams": 3, "max_new_tokens": 6, "pad_token_id": 0}
    compiled = tf.function(model.generate, jit_compile=True)
    np.testing.assert_array_equal(
        compiled(tf.constant(IDS), attention_mask=tf.constant(MASK), **options),
        model.generate(IDS, attention_mask=MASK, **options),
    )


def test_one_trace_serves_every_prompt_and_setting(model):
    traces = []
    call = type(model).call
    type(model).call = lambda self, *args, **kwargs: (
        traces.append(1),
        call(self, *args, **kwargs),
    )[1]
    try:
        model._functions.clear()
        options = {**SAMPLING, "max_new_tokens": 4}
        model.generate(IDS, **options)
        assert len(traces) == 2  # the prompt, and the step
        for change in ({"seed": 9}, {"temperature": 1.3}, {"top_p": 0.5}, {"max_new_tokens": 7}):
            model.generate(random_ids(2, 7), **{**options, **change})
        assert len(traces) == 2
        model.generate(IDS, **{**options, "max_new_tokens": 20})  # another power of two
        assert len(traces) == 4
    finally:
        type(model).call = call


def test_a_row_in_a_padded_batch_is_what_it_is_alone(model):
    options = {"do_sample": True, "max_new_tokens": 6}
    mask = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]])
    batch = model.generate(IDS, attention_mask=mask, seed=3, **options).numpy()
    for row in range(3):
        start = 5 - mask[row].sum()
        alone = model.generate(IDS[row : row + 1, start:], seed=[(3, row)], **options).numpy()
        np.testing.assert_array_equal(batch[row, start:], alone[0])
    columns = np.argsort(-mask, axis=1, kind="stable")  # padding on the right
    right, right_mask = (np.take_along_axis(x, columns, 1) for x in (IDS, mask))
    again = model.generate(right, attention_mask=right_mask, seed=3, **options).numpy()
    np.testing.assert_array_equal(again, batch)


def test_seeds_and_the_global_generator(model):
    def draw(**options):
        return model.generate(IDS, do_sample=True, max_new_tokens=6, **options).numpy()

    np.testing.assert_array_equal(draw(seed=1), draw(seed=1))
    assert (draw(seed=1) != draw(seed=2)).any()
    tf.random.set_seed(0)
    first = draw()
    assert (first != draw()).any()
    tf.random.set_seed(0)
    np.testing.assert_array_equal(draw(), first)
    traced = tf.function(lambda: model.generate(IDS, do_sample=True, max_new_tokens=6))
    assert (traced() != traced()).numpy().any()  # drawn when it runs, not when it is traced


def test_a_seed_of_two_integers_is_one_of_64_bits(model):
    """As transformers' TensorFlow models take it, in each place that a seed can come from."""

    def draw(seed):
        return model.generate(IDS, do_sample=True, max_new_tokens=6, seed=seed)

    expected = draw(3 * 2**32 + 2**31 + 5).numpy()
    pair = [3, 2**31 + 5]
    np.testing.assert_array_equal(draw(pair), expected)
    np.testing.assert_array_equal(draw(tf.constant(np.array(pair))), expected)
    spec = tf.TensorSpec([None, None], tf.int32)
    options = {"do_sample": True, "max_new_tokens": 6, "seed": pair}
    graph = tf.function(lambda ids: model.generate(ids, **options), input_signature=[spec])
    np.testing.assert_array_equal(graph(IDS), expected)


def test_without_cache_the_texts_are_the_same(model):
    options = {"max_new_tokens": 5, **SAMPLING}
    expected = model.generate(IDS, **options)
    np.testing.assert_array_equal(model.generate(IDS, use_cache=False, **options), expected)
    embeds = model.get_input_embeddings()(IDS)
    for use_cache in (True, False):
        new = model.generate(inputs_embeds=embeds, use_cache=use_cache, **options)
        np.testing.assert_array_equal(new, expected[:, 5:])


@pytest.mark.parametrize("form", ["cache", "pairs", "stacked"])
def test_a_cache_goes_on_where_it_ends(form, model):
    expected = model.generate(IDS, max_new_tokens=6)
    past = model(IDS[:, :3]).past_key_values
    given = {"cache": lambda: past, "pairs": past.to_tuple, "stacked": past.to_stacked}[form]()
    texts = model.generate(IDS, max_new_tokens=6, past_key_values=given)
    np.testing.assert_array_equal(texts, expected)
    with pytest.raises(InvalidInputError, match="past_key_values hold 3 tokens"):
        model.generate(IDS[:, :3], past_key_values=given)


def test_the_cache_that_generate_returns_can_be_continued(model):
    first = model.generate(IDS, max_new_tokens=3, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, KVCache)
    assert first.past_key_values.length == 7
    longer = model.generate(
        first.sequences, max_new_tokens=3, past_key_values=first.past_key_values
    )
    np.testing.assert_array_equal(longer, model.generate(IDS, max_new_tokens=6))


def test_attentions_and_hidden_states_come_with_every_step(model):
    output = model.generate(
        IDS,
        max_new_tokens=3,
        num_beams=2,
        return_dict_in_generate=True,
        output_attentions=True,
        output_hidden_states=True,
        output_scores=True,
    )
    assert type(output) is TFGenerateBeamDecoderOnlyOutput
    shapes = [(6, 3, 5, 5), (6, 3, 1, 6), (6, 3, 1, 7)]
    assert [step[0].shape for step in output.attentions] == shapes
    assert [step[0].shape for step in output.hidden_states] == [(6, 5, 24), *[(6, 1, 24)] * 2]
    assert output.sequences_scores.shape == (3,)


def test_the_result_of_a_graph_can_hold_more_than_texts(model):
    options = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_scores": True}
    for more in ({}, {"num_beams": 2}):
        eager = model.generate(IDS, **options, **more)
        graph = tf.function(lambda ids, more=more: model.generate(ids, **options, **more))(IDS)
        assert type(graph) is type(eager)
        assert list(graph) == list(eager)
        np.testing.assert_array_equal(graph.sequences, eager.sequences)
        np.testing.assert_allclose(graph.scores[2], eager.scores[2], rtol=1e-4, atol=1e-5)


def test_cross_attention_follows_each_row():
    model = tiny_model(add_cross_attention=True, eos_token_id=None, n_layer=1)
    states = tf.random.normal([3, 4, 24])
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    options = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2}
    batch = model.generate(
        IDS, encoder_hidden_states=states, encoder_attention_mask=mask, **options
    )
    for row in range(3):
        alone = model.generate(
            IDS[row : row + 1],
            encoder_hidden_states=states[row : row + 1],
            encoder_attention_mask=mask[row : row + 1],
            **options,
        )
        np.testing.assert_array_equal(batch[2 * row : 2 * row + 2], alone)


def test_users_functions_are_called_as_in_transformers(model):
    seen = []

    def only_even(input_ids, scores, cur_len):
        seen.append((tuple(input_ids.shape), tuple(scores.shape)))
        return tf.where(tf.range(61) % 2 == 0, scores, -np.inf)

    texts = model.generate(IDS, max_new_tokens=4, logits_processor=[only_even])
    assert (texts[:, 5:].numpy() % 2 == 0).all()
    assert seen[0][0][1] >= 9  # the whole buffer, of which cur_len columns are text
    stopped = model.generate(
        IDS, max_new_tokens=9, stopping_criteria=[lambda ids, scores: ids.shape[1] >= 7]
    )
    assert stopped.shape == (3, 7)
    allowed = model.generate(
        IDS, max_new_tokens=3, prefix_allowed_tokens_fn=lambda row, ids: [row + 10]
    )
    np.testing.assert_array_equal(allowed[:, 5:], [[10] * 3, [11] * 3, [12] * 3])


class TestStreaming(StreamingContract):
    backend = BACKEND

    def test_chunks_of_xla(self, model):
        host = model.generation_host(jit_compile=True)
        tokens = np.stack([*self.steps(model, chunk=4, host=host)], axis=1)
        np.testing.assert_array_equal(tokens, np.stack([*self.steps(model, chunk=4)], axis=1))


def test_a_streamer_gets_numpy_arrays(model):
    streamer = Recorder()
    texts = model.generate(IDS[:1], max_new_tokens=2, streamer=streamer)
    assert [value.shape for value in streamer.values] == [(1, 5), (1,), (1,)]
    for value in streamer.values:
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.int32
    np.testing.assert_array_equal(np.concatenate([*map(np.ravel, streamer.values)]), texts[0])


@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "sampling"])
def test_tokens_are_streamed_as_they_are_chosen(options, model):
    tokens = []
    texts = model.generate(IDS[:1], max_new_tokens=5, streamer=tokens.append, **options)
    assert [token for step in tokens for token in np.ravel(step)] == texts[0, 5:].numpy().tolist()
    np.testing.assert_array_equal(texts, model.generate(IDS[:1], max_new_tokens=5, **options))


def test_prompts_in_other_forms(model):
    expected = model.generate(IDS, max_new_tokens=2)
    np.testing.assert_array_equal(model.generate(IDS.tolist(), max_new_tokens=2), expected)
    wide = tf.constant(IDS, tf.int64)
    np.testing.assert_array_equal(model.generate(input_ids=wide, max_new_tokens=2), expected)
    assert model.generate(max_new_tokens=2)[0, 0] == 60  # bos
    padded = np.concatenate([[[7]] * 3, IDS], axis=1)
    inferred = model.generate(padded, max_new_tokens=2, pad_token_id=7)
    if not (IDS == 7).any():
        np.testing.assert_array_equal(inferred[:, 1:], expected)


def test_double_heads_generate_too():
    model = tiny_model(TFGPT2DoubleHeadsModel, eos_token_id=None, n_layer=1)
    assert model.generate(IDS, max_new_tokens=3).shape == (3, 8)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_half_precision(jit_compile):
    model = tiny_model(dtype="bfloat16", eos_token_id=None, n_layer=1)
    mask = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]])
    texts = model.generate(IDS, attention_mask=mask, max_new_tokens=4, jit_compile=jit_compile)
    assert texts.shape == (3, 9)
    # Each token is the likeliest, or within rounding as likely.
    full = np.concatenate([mask, np.ones((3, 4), int)], axis=1)
    logits = tf.cast(model(texts, attention_mask=full).logits[:, 4:-1], tf.float32).numpy()
    chosen = np.take_along_axis(logits, texts[:, 5:, None].numpy(), axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, logits.max(-1), rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "Did you mean 'temperature'?"),
        ({"max_new_tokens": 40}, "asks for 45 tokens in all"),
        ({"input_ids": IDS}, "as inputs or as input_ids, not as both"),
        ({"attention_mask": np.ones((3, 4))}, "attention_mask has shape [3, 4]"),
        ({"attention_mask": np.tri(3, 5, -1)}, "all of prompt 0 as padding"),
        ({"num_beams": 2, "streamer": print}, "cannot be streamed"),
        ({"assistant_model": 1}, "language-model head"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message, model):
    with pytest.raises(InvalidInputError) as error:
        model.generate(IDS, **options)
    assert message in str(error.value)


def test_what_needs_the_host_is_refused_in_a_graph(model):
    traced = tf.function(lambda ids: model.generate(ids, streamer=print), autograph=False)
    with pytest.raises(InvalidInputError, match=r"Inside tf\.function"):
        traced(IDS)
    with pytest.raises(InvalidInputError, match="input_ids holds 61"):
        model.generate(IDS * 0 + 61)


@pytest.mark.parametrize(
    "given", [{"labels": IDS, "logits_to_keep": 1}, {"eos_token_id": -1, "pad_token_id": -1}]
)
def test_labels_logits_to_keep_and_negative_special_tokens_change_nothing(model, given):
    expected = model.generate(IDS, max_new_tokens=3)
    np.testing.assert_array_equal(model.generate(IDS, max_new_tokens=3, **given), expected)


def test_inputs_for_a_decoding_loop_of_ones_own():
    """A loop as transformers' classes ran it gives what `generate` gives."""
    model = tiny_model(n_layer=1)
    assert model.supports_xla_generation
    ids, mask = tf.constant(random_ids(2, 4)), tf.constant([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None)
    past = None
    for _ in range(4):
        inputs = model.prepare_inputs_for_generation(
            ids, past_key_values=past, use_cache=True, attention_mask=mask, unused=1
        )
        assert set(inputs) == {
            "input_ids",
            "attention_mask",
            "position_ids",
            "past_key_values",
            "use_cache",
            "token_type_ids",
        }
        output = model(**inputs)
        past = output.past_key_values
        next_ids = tf.argmax(output.logits[:, -1:], axis=-1, output_type=tf.int32)[:, -1:]
        ids = tf.concat([ids, next_ids], axis=1)
        mask = tf.concat([mask, tf.ones_like(next_ids)], axis=1)
    np.testing.assert_array_equal(ids, expected)
    types = tf.constant([[1, 2]])
    cut = model.prepare_inputs_for_generation(types, past, token_type_ids=types)
    assert cut["token_type_ids"].numpy().tolist() == cut["input_ids"].numpy().tolist() == [[2]]
    assert cut["position_ids"] is None


@pytest.mark.parametrize("tie", [True, False])
def test_the_output_layer_of_its_own(tie):
    model = tiny_model(n_layer=1, tie_word_embeddings=tie)
    assert model.get_lm_head() is (None if tie else model.lm_head)
