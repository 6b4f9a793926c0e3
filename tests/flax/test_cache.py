"""The key-value cache: static in loops of the user's own, transformers' forms, what is refused."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.flax import KVCache
from support import positions
from support.contract.cache import CacheContract
from support.flax_models import BACKEND, random_ids, tiny_model

IDS = random_ids(2, 6)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def logits(model):
    return np.asarray(model(IDS).logits)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_static_cache_in_scan_and_step_by_step(model, logits):
    step = jax.jit(lambda cache, ids: model(ids, past_key_values=cache))
    cache = model.init_cache(2, 16)
    first = step(cache, IDS[:, :3])
    steps, cache = [first.logits], first.past_key_values
    for column in range(3, 6):
        output = step(cache, IDS[:, column : column + 1])
        steps.append(output.logits)
        cache = output.past_key_values
    assert step._cache_size() == 2  # the prompt and the step
    close(jnp.concatenate(steps, axis=1), logits)
    assert cache.length == 6

    def body(cache, ids):
        output = model(ids[:, None], past_key_values=cache)
        return output.past_key_values, output.logits[:, 0]

    _, scanned = jax.lax.scan(body, model.init_cache(2, 8), IDS.T)
    close(scanned.swapaxes(0, 1), logits)
    with pytest.raises(InvalidInputError, match=r"11 new tokens .* room for 10 more, 16 in all"):
        model(random_ids(2, 11), past_key_values=cache)
    with pytest.raises(InvalidInputError, match=r"17 new tokens .* 16 in all"):
        step(cache, random_ids(2, 17))
    with pytest.raises(InvalidInputError, match="covers 17 tokens; the cache has room for 16"):
        jax.jit(lambda cache: model(IDS, np.ones((2, 17)), past_key_values=cache))(cache)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other compilers were not looked at")
def test_a_loop_on_a_cpu_updates_the_cache_in_place(model):
    def decode(cache, ids):
        def body(cache, ids):
            output = model(ids[:, None], past_key_values=cache)
            return output.past_key_values, output.logits[:, 0]

        return jax.lax.scan(body, cache, ids.T)

    def copies(cache):
        compiled = jax.jit(decode, donate_argnums=0).lower(cache, IDS).compile().as_text()
        return len(re.findall(r"f32\[(6|2,3),16,8\]\S* copy\(", compiled))

    cache = model.init_cache(2, 16)
    assert copies(cache) == 0
    assert copies(KVCache(cache.keys, cache.values, cache.offset)) > 0  # of rank 4


def test_outside_of_jit_steps_share_a_compilation_whatever_their_masks(model, compiled):
    mask = np.ones((2, 9), int)
    mask[0, :2] = 0
    cache = model(IDS[:, :3], mask[:, :3], past_key_values=model.init_cache(2, 9)).past_key_values
    for column in range(3, 6):
        step = IDS[:, column : column + 1], mask[:, : column + 1]
        output = model(*step, past_key_values=cache)
        cache = output.past_key_values
        assert column == 3 or not compiled
        compiled.clear()
    close(output.logits, model(IDS, mask[:, :6]).logits[:, 5:])


def test_transformers_dict_cache_comes_back_as_one(model, logits):
    past = model.init_cache(2, 8).to_dict(prefix=True)
    assert past["transformer"]["h"]["0"]["attn"]["cached_key"].shape == (2, 8, 3, 8)
    mask, positions = np.ones((2, 8), int), np.arange(6)[None].repeat(2, 0)
    first = model(IDS[:, :5], mask, positions[:, :5], past_key_values=past)
    rest = model(IDS[:, 5:], mask, positions[:, 5:], past_key_values=first.past_key_values)
    close(rest.logits[:, 0], logits[:, 5])
    assert rest.past_key_values["transformer"]["h"]["1"]["attn"]["cache_index"] == 6


def test_padded_rows_through_a_static_cache_are_what_they_are_alone(model):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    cache = model(IDS[:, :4], mask[:, :4], past_key_values=model.init_cache(2, 9)).past_key_values
    padded = model(IDS[:, 4:], mask, past_key_values=cache).logits
    close(padded[0], model(IDS[:1, 2:]).logits[0, 2:])


@pytest.mark.parametrize("transform", [jax.jit, lambda function: function])
def test_positions_follow_from_the_mask(model, transform):
    """Also where a cache holds the first columns, and a mask covers room that is not filled."""
    call = transform(lambda ids, mask, past: model(ids, mask, past_key_values=past))
    ids = random_ids(6, 6)
    expected = model(ids, positions.MASK, positions.POSITIONS).logits
    close(call(ids, positions.MASK, None).logits, expected)
    beginning = positions.MASK[:, :3], positions.POSITIONS[:, :3]
    past = model(ids[:, :3], *beginning, past_key_values=model.init_cache(6, 9)).past_key_values
    for mask in (positions.MASK, np.pad(positions.MASK, [(0, 0), (0, 3)], constant_values=1)):
        close(call(ids[:, 3:], mask, past).logits, expected[:, 3:])


def test_cache_crops_extends_and_reorders(model):
    cache = model(IDS).past_key_values
    assert isinstance(cache, KVCache)
    assert cache.crop(-2).length == 4
    assert cache.extend(9).max_length == 9
    with pytest.raises(InvalidInputError, match="Cannot crop"):
        cache.crop(7)
    swapped = cache.reorder(jnp.array([1, 0, 0]))
    close(swapped[0][0][1], cache[0][0][0])
    assert swapped.batch_size == 3


def test_a_decoding_loop_written_for_transformers(model):
    prompt, mask = IDS[:, :4], np.array([[0, 1, 1, 1], [1] * 4])

    @jax.jit
    def step(params, tokens, arguments):
        outputs = model(tokens, params=params, **arguments)
        chosen = outputs.logits[:, -1:].argmax(axis=-1)
        return chosen, model.update_inputs_for_generation(outputs, arguments)

    with pytest.raises(InvalidInputError, match="max_length is 3; the prompt alone has 4 tokens"):
        model.prepare_inputs_for_generation(prompt, 3)
    arguments = model.prepare_inputs_for_generation(prompt, 9, mask)
    tokens, texts = prompt, [prompt]
    for _ in range(5):
        tokens, arguments = step(model.params, tokens, arguments)
        texts.append(tokens)
    assert step._cache_size() == 2  # the prompt and the step
    expected = model.generate(prompt, attention_mask=mask, max_length=9, eos_token_id=None)
    np.testing.assert_array_equal(jnp.concatenate(texts, axis=1), expected)


def test_a_cache_that_overflows_where_its_length_is_unknown_overwrites_its_end(model):
    step = jax.jit(lambda cache, ids: model(ids, past_key_values=cache).past_key_values)
    full = step(model.init_cache(2, 6), IDS)
    over = step(full, IDS[:, :1])
    assert over.length == 7
    assert (over.keys[0][:, :, :5] == full.keys[0][:, :, :5]).all()
    assert (over.keys[0][:, :, 5] != full.keys[0][:, :, 5]).any()
    with pytest.raises(InvalidInputError, match="room for 0 more, 6 in all"):
        model(IDS[:, :1], past_key_values=over)


ZEROS = np.zeros((2, 3, 1, 8), np.float32)


@pytest.mark.parametrize(
    ("past", "message"),
    [
        ("cache", "past_key_values must be a KVCache"),
        (((ZEROS,) * 3,) * 2, "past_key_values must be a KVCache"),
        (((ZEROS,) * 2,) * 3, "has 3 layers; this model has 2"),
        (((ZEROS[[0, 1, 1]],) * 2,) * 2, r"shape \[3, 3, 1, 8\]; it must be \[2, 3, any, 8\]"),
        (((ZEROS[:, :2],) * 2,) * 2, r"it must be \[2, 3, any, 8\]"),
        (((ZEROS.repeat(32, 2),) * 2,) * 2, "too long: 32 cached and 1 new"),
        (
            ((ZEROS.repeat(4, 2),) * 2, (ZEROS.repeat(5, 2),) * 2),
            r"shape \[2, 3, 5, 8\] in layer 1, but \[2, 3, 4, 8\] in layer 0",
        ),
        (((None, None),) * 2, "past_key_values must be a KVCache"),
        (3, "past_key_values must be a KVCache.*got int"),
        ({"h": {"0": {}}}, "A dict of past_key_values must be one of transformers' Flax models"),
        ({"k": 1}, "A dict of past_key_values must be one of transformers' Flax models"),
    ],
)
def test_bad_pasts_are_refused(past: Any, message: str, model):
    with pytest.raises(InvalidInputError, match=message):
        model(IDS[:, :1], past_key_values=past)


@pytest.mark.parametrize(
    ("past", "message"),
    [
        (3, "must be a KVCache"),
        (((None, None),) * 2, "must be a KVCache"),
        ({"k": 1}, "A dict of past_key_values must be"),
        (((ZEROS,) * 2,) * 3, "has 3 layers; this model has 2"),
        (((ZEROS[[0, 1, 1]],) * 2,) * 2, r"shape \[3, 3, 1, 8\]; it must be \[2, 3, any, 8\]"),
    ],
)
def test_generation_refuses_bad_pasts(past: Any, message: str, model):
    with pytest.raises(InvalidInputError, match=message):
        model.generate(IDS[:, :2], max_new_tokens=1, past_key_values=past)


@pytest.mark.parametrize("length", [0, 33])
def test_a_new_cache_fits_the_model(length, model):
    with pytest.raises(InvalidInputError, match=f"max_length is {length}.*1 to 32 positions"):
        model.init_cache(2, length)
    assert model.init_cache(2, 4, dtype=jnp.bfloat16).keys[0].dtype == jnp.bfloat16


def test_it_tells_of_itself_by_the_names_of_transformers(model):
    assert not KVCache.empty(2).is_initialized
    cache = model(IDS, past_key_values=model.init_cache(2, 9)).past_key_values
    assert (cache.is_compileable, cache.is_initialized) == (False, True)
    assert (cache.max_batch_size, cache.max_cache_len, cache.get_max_cache_shape()) == (2, 9, -1)
    assert cache.is_sliding == [False] * len(cache)
    assert cache.get_mask_sizes(np.arange(2)) == (8, 0)


class TestCache(CacheContract):
    backend = BACKEND
