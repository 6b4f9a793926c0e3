"""`generate` in Flax: golden texts, the same ones in one computation and step by step, its options.

What strategies and processors do is tested without a framework (tests/generation); here it is that
they do the same on JAX's arrays, and all that belongs to this backend.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.flax import FlaxGPT2DoubleHeadsModel, KVCache
from gpt2x.flax.outputs import FlaxGenerateBeamDecoderOnlyOutput, FlaxGenerateDecoderOnlyOutput
from support.contract.streaming import PROMPTS, StreamingContract
from support.flax_models import BACKEND, golden_model, random_ids, tiny_model
from support.golden_data import load_case
from support.recorder import Recorder

CASES = [
    "plain/greedy/left_padded",
    "plain/greedy/to_last_position",
    "plain/greedy/token_type_ids",
    "plain/greedy/inputs_embeds",
    "plain/processors/combined",
    "plain/processors/repetition_penalty_left_padded",
    "plain/beams/return_2_of_4",
    "plain/beams/left_padded_eos",
    "plain/watermark/selfhash_left_padded",
    "plain/watermark/beams_3",
    "plain/synthid/left_padded",
    "plain/group_beams/left_padded",
    "plain/constrained_beams/left_padded",
    "plain/guidance/longer",
    "plain/guidance/without_cache",
    "plain/guidance/left_padded",
    "untied/greedy/plain",
]
IDS = random_ids(3, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]])
SAMPLING = {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.8, "seed": 5}


@pytest.fixture(scope="module")
def golden():
    """The models of the golden folders."""
    names = {"plain": "plain/greedy/plain", "untied": "untied/greedy/plain"}
    return {folder: golden_model(load_case(name)) for folder, name in names.items()}


@pytest.fixture(scope="module")
def model():
    return tiny_model(eos_token_id=None, n_layer=1)


@pytest.mark.parametrize("name", CASES)
def test_texts_match_transformers(name, golden):
    case = load_case(name)
    options = case.settings["generate"]
    texts = golden[name.split("/")[0]].generate(**case.inputs, **options)
    assert texts.dtype == jnp.int32
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
    assert type(output) is FlaxGenerateDecoderOnlyOutput
    np.testing.assert_array_equal(output.sequences, case.outputs["sequences"])
    for name in ("scores", "logits"):
        np.testing.assert_allclose(
            jnp.stack(output[name]), case.outputs[name], rtol=1e-4, atol=1e-4
        )
    transitions = golden["plain"].compute_transition_scores(output.sequences, output.scores)
    np.testing.assert_allclose(transitions, case.outputs["transition_scores"], rtol=1e-4)


def test_the_result_is_an_array_and_has_sequences(model):
    texts = model.generate(IDS, max_new_tokens=4)
    assert texts.shape == texts.sequences.shape == texts["sequences"].shape == (3, 9)
    assert len(texts) == 3
    assert texts[0].tolist() == next(iter(texts)).tolist() == texts.sequences[0].tolist()
    assert (texts == texts.sequences).all()
    assert jnp.add(texts, 1)[0, 0] == IDS[0, 0] + 1


@pytest.mark.parametrize(
    "options",
    [
        SAMPLING,
        {**SAMPLING, "num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    ],
    ids=["sampling", "beams", "group_beams"],
)
def test_the_same_texts_traced_untraced_and_inside_jit(options, model):
    options = {**options, "max_new_tokens": 4, "pad_token_id": 0}
    texts = model.generate(IDS, attention_mask=MASK, **options)
    if "seed" in options:
        np.testing.assert_array_equal(
            model.generate(IDS, attention_mask=MASK, trace=False, **options), texts
        )
    jitted = jax.jit(lambda ids, mask: model.generate(ids, attention_mask=mask, **options))
    np.testing.assert_array_equal(jitted(IDS, MASK).sequences, texts)


def test_one_compilation_serves_a_bucket(model, compiled):
    options = {**SAMPLING, "min_p": 0.01, "max_new_tokens": 4}  # no other test compiles this
    model.generate(IDS, **options)
    assert compiled
    compiled.clear()
    model.generate(random_ids(2, 5), **options)  # another batch size
    assert len(compiled) == 1
    compiled.clear()
    for change in ({"seed": 9}, {"temperature": 1.3}, {"top_p": 0.5}, {"max_new_tokens": 7}):
        for width in (1, 7, 9):
            model.generate(random_ids(2, width), **{**options, **change})
    assert not compiled
    model.generate(random_ids(2, 17), **options)  # the next power of two
    assert len(compiled) == 1


def test_it_stops_when_every_row_has_ended(model):
    first = int(model.generate(IDS[:1], max_new_tokens=1)[0, -1])
    texts = model.generate(IDS[:1], max_new_tokens=20, eos_token_id=first)
    assert texts.shape == (1, 6)


def test_a_row_in_a_padded_batch_is_what_it_is_alone(model):
    options = {"do_sample": True, "max_new_tokens": 6}
    batch = np.asarray(model.generate(IDS, attention_mask=MASK, seed=3, **options))
    for row in (0, 2):
        start = 5 - MASK[row].sum()
        alone = model.generate(IDS[row : row + 1, start:], seed=[(3, row)], **options)
        np.testing.assert_array_equal(batch[row, start:], alone[0])
    columns = np.argsort(-MASK, axis=1, kind="stable")  # padding on the right
    right, right_mask = (np.take_along_axis(x, columns, 1) for x in (IDS, MASK))
    again = model.generate(right, attention_mask=right_mask, seed=3, **options)
    np.testing.assert_array_equal(again, batch)


def test_seeds_and_keys(model):
    def draw(**options):
        return np.asarray(model.generate(IDS, do_sample=True, max_new_tokens=6, **options))

    np.testing.assert_array_equal(draw(seed=1), draw(seed=1))
    assert (draw(seed=1) != draw(seed=2)).any()
    np.testing.assert_array_equal(draw(prng_key=jax.random.PRNGKey(1)), draw(seed=1))
    np.testing.assert_array_equal(draw(prng_key=jax.random.key(1)), draw(seed=1))
    assert (draw(prng_key=jax.random.split(jax.random.key(1))[0]) != draw(seed=1)).any()
    np.random.seed(0)
    first = draw()
    assert (first != draw()).any()
    np.random.seed(0)
    np.testing.assert_array_equal(draw(), first)
    key = jax.random.PRNGKey(1)
    jitted = jax.jit(
        lambda key: model.generate(IDS, do_sample=True, max_new_tokens=6, prng_key=key).sequences
    )
    np.testing.assert_array_equal(jitted(key), draw(seed=1))


def test_params_take_the_place_of_the_models_own(model):
    other = jax.tree.map(lambda array: array * 0.5, model.params)
    texts = model.generate(IDS, params=other, max_new_tokens=4)
    np.testing.assert_array_equal(texts, model.with_params(other).generate(IDS, max_new_tokens=4))
    assert (texts != model.generate(IDS, max_new_tokens=4)).any()


@pytest.mark.parametrize("transform", [jax.jit, lambda f: jax.pmap(f, "batch")])
def test_params_can_be_set_inside_a_transformation(transform):
    model = tiny_model(eos_token_id=None, n_layer=1)
    own, other = model.params, jax.tree.map(lambda array: array * 0.5, model.params)
    expected = model.generate(IDS, params=other, max_new_tokens=4)

    def generate_step(params, batch):
        model.params = params
        return model.generate(batch, max_new_tokens=4).sequences

    replicated = jax.tree.map(lambda array: array[None], (other, IDS))
    texts = transform(generate_step)(*((other, IDS) if transform is jax.jit else replicated))
    np.testing.assert_array_equal(texts.reshape(expected.shape), expected)
    np.testing.assert_array_equal(model.generate(IDS, params=other, max_new_tokens=4), expected)
    model.params = own
    assert (model.generate(IDS, max_new_tokens=4) != expected).any()


def test_without_cache_the_texts_are_the_same(model):
    options = {"max_new_tokens": 5, **SAMPLING}
    expected = model.generate(IDS, **options)
    np.testing.assert_array_equal(model.generate(IDS, use_cache=False, **options), expected)
    embeds = model.get_input_embeddings().embedding[...][IDS]
    for use_cache in (True, False):
        new = model.generate(inputs_embeds=embeds, use_cache=use_cache, **options)
        np.testing.assert_array_equal(new, expected[:, 5:])


@pytest.mark.parametrize("form", ["cache", "pairs", "dict"])
def test_a_cache_goes_on_where_it_ends(form, model):
    expected = model.generate(IDS, max_new_tokens=6)
    past = model(IDS[:, :3]).past_key_values
    given = {
        "cache": lambda: past,
        "pairs": past.to_tuple,
        "dict": lambda: past.to_dict(prefix=True),
    }[form]()
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
    assert type(output) is FlaxGenerateBeamDecoderOnlyOutput
    shapes = [(6, 3, 5, 5), (6, 3, 1, 6), (6, 3, 1, 7)]
    assert [step[0].shape for step in output.attentions] == shapes
    assert [step[0].shape for step in output.hidden_states] == [(6, 5, 24), *[(6, 1, 24)] * 2]
    assert output.sequences_scores.shape == (3,)


def test_cross_attention_follows_each_row():
    model = tiny_model(add_cross_attention=True, eos_token_id=None, n_layer=1)
    states = jax.random.normal(jax.random.key(0), (3, 4, 24))
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
        return jnp.where(jnp.arange(61) % 2 == 0, scores, -np.inf)

    texts = model.generate(IDS, max_new_tokens=4, logits_processor=[only_even])
    assert (texts[:, 5:] % 2 == 0).all()
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

    def test_a_cache_that_was_given_is_not_donated(self, model):
        cache = model.prefill(PROMPTS[:, :3])
        tokens = [[*self.steps(model, chunk=4, past_key_values=cache)] for _ in range(2)]
        np.testing.assert_array_equal(*tokens)
        assert np.isfinite(cache[0][0]).all()


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
    assert [token for step in tokens for token in np.ravel(step)] == texts[0, 5:].tolist()
    np.testing.assert_array_equal(texts, model.generate(IDS[:1], max_new_tokens=5, **options))


def test_prompts_in_other_forms(model):
    expected = model.generate(IDS, max_new_tokens=2)
    np.testing.assert_array_equal(model.generate(IDS.tolist(), max_new_tokens=2), expected)
    wide = np.asarray(IDS, np.int64)
    np.testing.assert_array_equal(model.generate(input_ids=wide, max_new_tokens=2), expected)
    assert model.generate(max_new_tokens=2)[0, 0] == 60  # bos
    padded = np.concatenate([[[7]] * 3, IDS], axis=1)
    inferred = model.generate(padded, max_new_tokens=2, pad_token_id=7)
    if not (IDS == 7).any():
        np.testing.assert_array_equal(inferred[:, 1:], expected)


def test_double_heads_generate_too():
    model = tiny_model(FlaxGPT2DoubleHeadsModel, eos_token_id=None)
    assert model.generate(IDS, max_new_tokens=3).shape == (3, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "Did you mean 'temperature'?"),
        ({"max_new_tokens": 40}, "asks for 45 tokens in all"),
        ({"inputs": IDS}, "as inputs or as input_ids, not as both"),
        ({"attention_mask": np.ones((3, 4))}, "attention_mask has shape [3, 4]"),
        ({"attention_mask": np.tri(3, 5, -1)}, "all of prompt 0 as padding"),
        ({"num_beams": 2, "streamer": print}, "cannot be streamed"),
        ({"assistant_model": 1}, "language-model head"),
        ({"do_sample": True, "seed": 1, "prng_key": 1}, "say the same"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message, model):
    with pytest.raises(InvalidInputError) as error:
        model.generate(IDS, **options)
    assert message in str(error.value)


def test_what_needs_the_host_is_refused_inside_jit(model):
    with pytest.raises(InvalidInputError, match=r"Inside jax\.jit"):
        jax.jit(lambda ids: model.generate(ids, streamer=print).sequences)(IDS)


@pytest.mark.parametrize(
    "given", [{"labels": IDS, "logits_to_keep": 1}, {"eos_token_id": -1, "pad_token_id": -1}]
)
def test_labels_logits_to_keep_and_negative_special_tokens_change_nothing(model, given):
    expected = model.generate(IDS, max_new_tokens=3)
    np.testing.assert_array_equal(model.generate(IDS, max_new_tokens=3, **given), expected)


def test_negative_prompts_may_be_the_only_traced_argument(model):
    options = {"guidance_scale": 1.8, "max_new_tokens": 4, "pad_token_id": 0}

    def write(negative):
        return model.generate(IDS, negative_prompt_ids=negative, **options)

    negative = random_ids(3, 7)
    np.testing.assert_array_equal(jax.jit(write)(negative), write(negative))
