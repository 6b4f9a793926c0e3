"""Every form of input gives the same output; what cannot be used raises one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.tf import KVCache, TFGPT2DoubleHeadsModel, TFGPT2LMHeadModel, TFGPT2Model
from gpt2x.tokenization import BatchEncoding
from support import positions
from support.tf_models import random_ids, tiny_model

IDS = random_ids(2, 6)
MASK = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
PAST = tf.zeros([2, 3, 4, 8])
UNEQUAL = ((PAST, PAST), (PAST[:, :, 1:], PAST[:, :, 1:]))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model):
    return model(input_ids=IDS, attention_mask=MASK).logits.numpy()


FORMS = {
    "keywords": lambda m: m(input_ids=IDS, attention_mask=MASK),
    "tensor first": lambda m: m(tf.constant(IDS), attention_mask=tf.constant(MASK)),
    "int64": lambda m: m(tf.constant(IDS, tf.int64), attention_mask=tf.constant(MASK, tf.int64)),
    "plain lists": lambda m: m(IDS.tolist(), attention_mask=MASK.tolist()),
    "dictionary": lambda m: m({"input_ids": IDS, "attention_mask": MASK}),
    "BatchEncoding": lambda m: m(BatchEncoding({"input_ids": IDS, "attention_mask": MASK})),
    "list in order": lambda m: m([IDS, None, MASK]),
    "ids and mask": lambda m: m([IDS, MASK]),
    "tuple": lambda m: m((tf.constant(IDS), None, tf.constant(MASK))),
    "positional": lambda m: m(IDS, None, MASK),
    "boolean mask": lambda m: m(IDS, attention_mask=MASK.astype(bool)),
    "float mask": lambda m: m(IDS, attention_mask=MASK.astype(np.float32)),
    "not as a dictionary": lambda m: m(IDS, attention_mask=MASK, return_dict=False),
    "graph": lambda m: tf.function(lambda x, y: m(x, attention_mask=y))(IDS, MASK),
    "graph of any size": lambda m: tf.function(
        m, input_signature=[[tf.TensorSpec([None, None], tf.int32)] * 2]
    )([IDS, MASK]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input(form, model, expected):
    output = FORMS[form](model)
    logits = output[0] if isinstance(output, tuple) else output.logits
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_aliases_warn(model, expected):
    past = model(IDS[:, :4], attention_mask=MASK[:, :4]).past_key_values
    with pytest.warns(FutureWarning, match="'past' is deprecated; use 'past_key_values'"):
        output = model(IDS[:, 4:], past=past, attention_mask=MASK)
    np.testing.assert_allclose(output.logits, expected[:, 4:], rtol=1e-5, atol=1e-5)
    with pytest.warns(FutureWarning, match="'inputs' is deprecated; use 'input_ids'"):
        output = model(inputs=IDS, attention_mask=MASK)
    np.testing.assert_allclose(output.logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS, "atention_mask": MASK}, "Did you mean 'attention_mask'?"),
        ({}, "Pass either input_ids or inputs_embeds; neither"),
        ({"input_ids": IDS[0]}, "input_ids has shape [6]; it must be [batch, length]"),
        ({"input_ids": IDS + 60}, "vocab_size is 61, so allowed are 0 to 60"),
        ({"input_ids": IDS.astype(np.float32)}, "input_ids must be integers"),
        ({"input_ids": np.zeros((1, 33), np.int32)}, "n_positions is 32"),
        ({"input_ids": IDS, "attention_mask": MASK[:, 1:]}, "attention_mask has shape [2, 5]"),
        ({"input_ids": IDS, "position_ids": IDS * 0 + 32}, "n_positions is 32"),
        ({"input_ids": IDS, "past_key_values": [1, 2]}, "past_key_values must be a KVCache"),
        ({"input_ids": IDS, "past_key_values": 3}, "past_key_values must be a KVCache"),
        ({"input_ids": IDS, "past_key_values": ((None, None),) * 2}, "(NoneType, NoneType)"),
        ({"input_ids": IDS, "past_key_values": UNEQUAL}, "all layers must hold the same tokens"),
        ({"input_ids": IDS, "encoder_hidden_states": np.zeros((2, 3, 24))}, "add_cross_attention"),
        ({"input_ids": IDS, "labels": IDS + 60}, "labels holds"),
        ({"input_ids": IDS, "labels": IDS, "logits_to_keep": 1}, "labels need the logits"),
    ],
)
def test_errors_say_what_is_allowed(model, arguments, message):
    with pytest.raises(InvalidInputError) as error:
        model(**arguments)
    assert message in str(error.value)
    assert "Arguments received by" not in str(error.value)


@pytest.mark.parametrize("past", [3, ((None, None),) * 2, UNEQUAL])
def test_generation_refuses_the_same_pasts(model, past):
    with pytest.raises(InvalidInputError, match="past_key_values"):
        model.generate(IDS, max_new_tokens=1, past_key_values=past)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
def test_ids_may_be_of_any_integer_type(model, dtype):
    expected = model(IDS, attention_mask=MASK).logits
    for ids in (IDS.astype(dtype), tf.constant(IDS.astype(dtype))):
        np.testing.assert_array_equal(model(ids, attention_mask=MASK).logits, expected)


def test_arguments_given_twice(model):
    with pytest.raises(InvalidInputError, match="several values for the argument 'input_ids'"):
        model(IDS, input_ids=IDS)


def test_a_row_gives_what_it_gives_alone(model, expected):
    alone = model(IDS[:1, 2:]).logits
    np.testing.assert_allclose(expected[0, 2:], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_positions_follow_from_the_mask(model, jit_compile):
    """Also where a cache holds the first columns, and a mask covers room that is not filled."""
    call = tf.function(
        lambda ids, mask, past=None: model(ids, attention_mask=mask, past_key_values=past),
        jit_compile=jit_compile,
    )
    ids = random_ids(6, 6)
    expected = model(ids, attention_mask=positions.MASK, position_ids=positions.POSITIONS).logits
    logits = call(ids, positions.MASK).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    longer = np.pad(positions.MASK, [(0, 0), (0, 10)], constant_values=1)
    past = model(
        ids[:, :3],
        attention_mask=positions.MASK[:, :3],
        position_ids=positions.POSITIONS[:, :3],
        past_key_values=KVCache.create(model.config, 6, 16),
    ).past_key_values
    rest = call(ids[:, 3:], longer, past).logits
    np.testing.assert_allclose(rest, expected[:, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["KVCache", "pairs", "stacked", "preallocated"])
def test_past_in_each_form_comes_back_in_that_form(form, model, expected):
    past = model(IDS[:, :3], attention_mask=MASK[:, :3]).past_key_values
    assert isinstance(past, KVCache)
    given = {
        "KVCache": lambda: past,
        "pairs": past.to_tuple,
        "stacked": past.to_stacked,
        "preallocated": lambda: past.extend(20),
    }[form]()
    first = model(IDS[:, 3:5], past_key_values=given, attention_mask=MASK[:, :5])
    second = model(IDS[:, 5:], past_key_values=first.past_key_values, attention_mask=MASK)
    for output, columns in ((first, slice(3, 5)), (second, slice(5, 6))):
        np.testing.assert_allclose(output.logits, expected[:, columns], rtol=1e-5, atol=1e-5)
    returned = second.past_key_values
    if form == "pairs":
        assert [[tuple(x.shape) for x in pair] for pair in returned] == [[(2, 3, 6, 8)] * 2] * 2
    elif form == "stacked":
        assert [tuple(x.shape) for x in returned] == [(2, 2, 3, 6, 8)] * 2
    else:
        assert isinstance(returned, KVCache)
        assert returned.length == 6
        assert returned.max_length == (20 if form == "preallocated" else 6)
    # What was given stays as it was, and can be continued in another way.
    again = model(IDS[:, 3:5], past_key_values=given, attention_mask=MASK[:, :5])
    np.testing.assert_array_equal(again.logits, first.logits)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_static_cache_in_a_graph(model, expected, jit_compile):
    """One trace for prefill and one for all steps, of unknown length, as XLA wants it."""
    step = tf.function(
        lambda ids, cache, mask: model(ids, past_key_values=cache, attention_mask=mask),
        jit_compile=jit_compile,
    )
    cache = KVCache.create(model.config, 2, 16)
    mask = np.pad(MASK, [(0, 0), (0, 10)], constant_values=1)
    output = step(IDS[:, :3], cache, mask)
    np.testing.assert_allclose(output.logits, expected[:, :3], rtol=1e-5, atol=1e-5)
    for column in range(3, 6):
        output = step(IDS[:, column : column + 1], output.past_key_values, mask)
        np.testing.assert_allclose(output.logits[:, 0], expected[:, column], rtol=1e-5, atol=1e-5)
        assert output.past_key_values.length == column + 1
    assert step.experimental_get_tracing_count() == 2


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("form", ["pairs", "stacked", "pairs without mask", "cross"])
def test_a_step_of_a_graph_takes_a_past_of_any_length(form, jit_compile):
    is_cross = form == "cross"
    model = tiny_model(n_layer=1, add_cross_attention=is_cross)
    given = {} if form == "pairs without mask" else {"attention_mask": MASK}
    encoder = {"encoder_hidden_states": tf.random.normal([2, 4, 24])} if is_cross else {}
    expected = model(IDS, **given, **encoder).logits
    begun = {name: value[:, :3] for name, value in given.items()}
    cache = model(IDS[:, :3], **begun, **encoder).past_key_values
    past = cache.to_stacked() if form == "stacked" else cache.to_tuple()
    axis = 3 if form == "stacked" else 2

    def any_length(tensor):
        shape = [None if i == axis else size for i, size in enumerate(tensor.shape)]
        return tf.TensorSpec(shape, tf.float32)

    ids = tf.TensorSpec([None, None], tf.int32)
    step = tf.function(
        lambda ids, past, given: model(ids, past_key_values=past, **given),
        input_signature=[ids, tf.nest.map_structure(any_length, past), dict.fromkeys(given, ids)],
        jit_compile=jit_compile,
    )
    for column in range(3, 6):
        seen = {name: tf.constant(v[:, : column + 1], tf.int32) for name, v in given.items()}
        output = step(tf.constant(IDS[:, column : column + 1]), past, seen)
        past = output.past_key_values
        np.testing.assert_allclose(output.logits[:, 0], expected[:, column], rtol=1e-4, atol=1e-5)
    assert tf.nest.flatten(past)[0].shape[axis] == 6


def test_ids_that_a_trace_holds_as_floats_become_integers(model, expected):
    floats = tf.constant(IDS, tf.float32)
    traced = tf.function(lambda ids: model(ids, attention_mask=MASK).logits)
    np.testing.assert_allclose(traced(floats), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidInputError, match="input_ids must be integers"):
        model(floats)


def test_gradients_flow_through_a_past(model):
    embeds = tf.random.normal([1, 4, 24])
    with tf.GradientTape() as tape:
        tape.watch(embeds)
        past = model(inputs_embeds=embeds, use_cache=True).past_key_values
        loss = tf.reduce_sum(model(IDS[:1, :2], past_key_values=past.to_tuple()).logits ** 2)
    assert np.abs(tape.gradient(loss, embeds)).max() > 0


def test_hidden_states_and_attentions(model):
    output = model(IDS, output_hidden_states=True, output_attentions=True)
    assert [x.shape for x in output.hidden_states] == [(2, 6, 24)] * 3
    assert [x.shape for x in output.attentions] == [(2, 3, 6, 6)] * 2
    assert list(output) == ["logits", "past_key_values", "hidden_states", "attentions"]
    assert output[0] is output.logits is output["logits"]
    assert model(IDS, use_cache=False).past_key_values is None


def test_training_applies_dropout(model):
    calm = model(IDS, training=False).logits
    np.testing.assert_array_equal(calm, model(IDS).logits)
    first, second = (model(IDS, training=True).logits.numpy() for _ in range(2))
    assert np.abs(first - calm).max() > 0.01
    assert np.abs(first - second).max() > 0.01


def test_half_precision_on_rows_that_see_nothing():
    model = tiny_model(TFGPT2Model, dtype="bfloat16")
    mask = np.array([[0] * 6, [1] * 6])
    for form in (mask, np.where(mask, 0.0, -np.inf)[:, None, None].astype(np.float32)):
        hidden = model(IDS, attention_mask=form).last_hidden_state
        assert hidden.dtype == tf.bfloat16
        assert np.isfinite(tf.cast(hidden, tf.float32)).all()


def test_head_mask_silences_a_head(model):
    weights = model(IDS, head_mask=np.array([1.0, 0.0, 1.0]), output_attentions=True).attentions
    assert np.abs(weights[0][:, 1]).max() == 0
    assert np.abs(weights[0][:, 0]).max() > 0


def test_summary_reads_the_token_it_is_told_to():
    ids, last = random_ids(2, 3, 5), np.array([[4, 2, 0], [1, 3, 4]])
    model = tiny_model(TFGPT2DoubleHeadsModel)
    by_index = model(ids, mc_token_ids=last)
    assert by_index.mc_logits.shape == (2, 3)
    assert by_index.logits.shape == (2, 3, 5, 61)
    of_last = model(ids)
    np.testing.assert_allclose(by_index.mc_logits[0, 0], of_last.mc_logits[0, 0], rtol=1e-5)
    np.testing.assert_allclose(by_index.mc_logits[1, 2], of_last.mc_logits[1, 2], rtol=1e-5)
    assert np.abs(by_index.mc_logits - of_last.mc_logits)[1, 1] > 1e-3


def test_initial_weights_of_the_residual_projections_are_scaled():
    model = TFGPT2LMHeadModel(tiny_model().config)
    weights = {variable.path: variable.numpy() for variable in model.weights}
    for path, value in weights.items():
        if path.endswith("c_proj/weight"):
            assert 0.1 < value.std() < 0.2  # 0.3 / sqrt(2 * 2 layers)
        elif path.endswith(("c_attn/weight", "c_fc/weight", "embeddings")):
            assert 0.25 < value.std() < 0.35


def test_models_name_their_framework_and_vocabulary():
    model = tiny_model()
    assert (model.framework, model.vocab_size) == ("tf", model.config.vocab_size)
    model.resize_token_embeddings(7)
    assert model.vocab_size == 7
    with pytest.raises(AttributeError, match=r"no 'get_bias'.* GPT-2's output layer has no bias"):
        model.get_bias()
    assert not hasattr(model, "hf_compute_loss")


def test_a_cache_tells_of_itself_by_the_names_of_transformers(model):
    assert not KVCache.empty(2).is_initialized
    cache = KVCache.create(model.config, batch_size=2, max_length=9)
    cache = model(IDS, past_key_values=cache).past_key_values
    assert (cache.is_compileable, cache.is_initialized) == (False, True)
    assert (cache.max_batch_size, cache.max_cache_len, cache.get_max_cache_shape()) == (2, 9, -1)
    assert cache.is_sliding == [False] * len(cache)
    assert cache.get_mask_sizes(tf.range(2)) == (8, 0)
