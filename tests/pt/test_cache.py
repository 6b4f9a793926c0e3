"""The key-value cache: each form, step by step against the whole text at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from support.contract.cache import CacheContract
from support.pt_models import BACKEND, assert_as_close_as, random_ids, tiny_config, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def decode(model: Any, ids: torch.Tensor, past: Any, **inputs: Any) -> torch.Tensor:
    """Feed the text in pieces of 3, 1, 2 and the rest; return all logits."""
    logits, start = [], 0
    for end in (3, 4, 6, ids.size(1)):
        output = model(ids[:, start:end], past_key_values=past, **inputs)
        logits.append(output.logits)
        past, start = output.past_key_values, end
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("form", ["none", "preallocated", "tuple"])
@pytest.mark.parametrize("no_grad", [True, False])
def test_pieces_give_what_the_whole_gives(implementation: str, form: str, no_grad: bool):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    ids = random_ids(2, 9)
    whole = model(ids).logits
    with torch.set_grad_enabled(not no_grad):
        past: Any = None
        if form == "preallocated":
            past = pt.KVCache.create(model.config, batch_size=2, max_length=12)
        logits = []
        for start, end in ((0, 3), (3, 4), (4, 6), (6, 9)):
            output = model(ids[:, start:end], past_key_values=past)
            logits.append(output.logits)
            past = output.past_key_values
            if form == "tuple":
                past = past.to_tuple() if isinstance(past, pt.KVCache) else past
                assert past[0][0].shape == (2, 3, end, 8)
            else:
                assert past.length == past.get_seq_length() == end
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, **CLOSE)


def test_the_form_given_is_the_form_returned():
    model = tiny_model()
    first = model(random_ids(2, 3)).past_key_values
    assert isinstance(first, pt.KVCache)
    assert (first.length, first.max_length, first.batch_size, len(first)) == (3, 3, 2, 2)
    pairs = first.to_tuple()
    copies = pytree.tree_map(torch.clone, pairs)
    second = model(random_ids(2, 1), past_key_values=pairs).past_key_values
    assert isinstance(second, tuple)
    assert second[0][0].shape == (2, 3, 4, 8)
    for given, copy in zip(pytree.tree_leaves(pairs), pytree.tree_leaves(copies), strict=True):
        torch.testing.assert_close(given, copy, rtol=0, atol=0)
    third = model(random_ids(2, 1), past_key_values=[list(pair) for pair in pairs])
    assert third.past_key_values[1][1].shape == (2, 3, 4, 8)
    assert isinstance(model(random_ids(2, 3), past_key_values=()).past_key_values, tuple)


def test_a_cache_is_appended_to_in_place():
    model = tiny_model()
    with torch.no_grad():
        cache = pt.KVCache.create(model.config, 2, 8)
        buffer = cache.keys[0]
        output = model(random_ids(2, 3), past_key_values=cache)
        assert output.past_key_values is cache
        assert cache.keys[0] is buffer
        assert (cache.length, cache.max_length) == (3, 8)
        assert cache[0][0].shape == (2, 3, 3, 8)
        assert (buffer[:, :, 3:] == 0).all()
        model(random_ids(2, 7), past_key_values=cache)  # more than there is room for: it grows
        assert (cache.length, cache.max_length) == (10, 10)


def test_use_cache():
    model = tiny_model()
    ids = random_ids(2, 3)
    assert model(ids, use_cache=False).past_key_values is None
    assert tiny_model(use_cache=False)(ids).past_key_values is None
    cache = model(ids).past_key_values
    unused = pt.KVCache.create(model.config, 2, 8)
    output = model(ids, past_key_values=unused, use_cache=False)
    assert output.past_key_values is None
    assert unused.length == 0
    assert not unused.keys[0].any()
    with torch.no_grad():
        seen = pt.KVCache.create(model.config, 2, 8)
        model(ids, past_key_values=seen)
        for past in (cache, seen):  # what is not returned does not change
            before = past.fork()
            output = model(random_ids(2, 1), past_key_values=past, use_cache=False)
            assert output.past_key_values is None
            assert past.length == 3
            for a, b in zip(past.to_tuple(), before.to_tuple(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_forks_are_independent():
    model = tiny_model()
    ids = random_ids(1, 8)
    with torch.no_grad():
        cache = pt.KVCache.create(model.config, 1, 8)
        model(ids[:, :4], past_key_values=cache)
        fork = cache.fork()
        model(random_ids(1, 4), past_key_values=fork)
        assert (cache.length, fork.length) == (4, 8)
        after = model(ids[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(after, model(ids).logits[:, 4:], **CLOSE)


def test_crop_forgets_and_extend_makes_room():
    model = tiny_model()
    ids = random_ids(2, 8)
    whole = model(ids).logits
    with torch.no_grad():
        cache = model(ids[:, :5]).past_key_values
        model(random_ids(2, 3), past_key_values=cache)
        assert cache.crop(6) is cache
        assert cache.crop(-1).length == 5
        assert cache.extend(20).max_length == 20
        after = model(ids[:, 5:], past_key_values=cache).logits
        assert cache.max_length == 20
    torch.testing.assert_close(after, whole[:, 5:], **CLOSE)
    for length in (9, -9):
        with pytest.raises(InvalidInputError, match=f"length 8 to {length}"):
            cache.crop(length)
    with pytest.raises(InvalidInputError, match="8 are filled"):
        cache.extend(7)


@pytest.mark.parametrize("parents", [[1, 0, 2], [2, 2, 0], [0, 0, 1, 1, 2, 2], [1]])
def test_reorder_gathers_rows(parents: list[int]):
    model = tiny_model()
    ids, rows = random_ids(3, 7), torch.tensor(parents)
    with torch.no_grad():
        cache = pt.KVCache.create(model.config, 3, 9)
        model(ids[:, :4], past_key_values=cache)
        assert cache.reorder(rows) is cache
        assert (cache.batch_size, cache.length, cache.max_length) == (len(parents), 4, 9)
        after = model(ids[rows, 4:], past_key_values=cache).logits
    torch.testing.assert_close(after, model(ids[rows]).logits[:, 4:], **CLOSE)


def test_cross_attention_is_cached():
    model = tiny_model(add_cross_attention=True)
    ids, encoder = random_ids(2, 9), torch.randn(2, 5, 24)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    options = {"encoder_attention_mask": mask}
    whole = model(ids, encoder_hidden_states=encoder, **options).logits
    assert (whole - model(ids).logits).abs().max() > 1e-3
    both = {"encoder_hidden_states": encoder, **options}
    torch.testing.assert_close(decode(model, ids, None, **both), whole, **CLOSE)
    # Once seen, the encoder's states come from the cache.
    first = model(ids[:, :4], **both)
    past = first.past_key_values
    assert past.cross(0)[0].shape == (2, 3, 5, 8)
    assert len(past.to_tuple()[0]) == 4
    for given in (past.to_tuple(), past):
        rest = model(ids[:, 4:], past_key_values=given, **options)
        torch.testing.assert_close(rest.logits, whole[:, 4:], **CLOSE)
    swapped = first.past_key_values.crop(4).reorder(torch.tensor([1, 0]))
    rest = model(ids.flip(0)[:, 4:], past_key_values=swapped, encoder_attention_mask=mask.flip(0))
    torch.testing.assert_close(rest.logits, whole.flip(0)[:, 4:], **CLOSE)


@pytest.mark.parametrize("form", ["tuple", "cache", "preallocated"])
def test_gradients_flow_through_the_past(form: str):
    model = tiny_model()
    ids = random_ids(2, 6)
    whole = torch.autograd.grad(model(ids).logits[:, 4:].sum(), model.transformer.wte.weight)[0]
    past: Any = None
    if form == "preallocated":
        past = pt.KVCache.create(model.config, 2, 10)
    past = model(ids[:, :4], past_key_values=past).past_key_values
    past = past.to_tuple() if form == "tuple" else past
    output = model(ids[:, 4:], past_key_values=past)
    pieces = torch.autograd.grad(output.logits.sum(), model.transformer.wte.weight)[0]
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)


def test_is_a_pytree():
    model = tiny_model(add_cross_attention=True)
    cache = model(random_ids(2, 3), encoder_hidden_states=torch.randn(2, 4, 24)).past_key_values
    leaves, spec = pytree.tree_flatten(cache)
    assert len(leaves) == 2 * 4
    again = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, pt.KVCache)
    assert again.length == 3
    assert again.keys[1] is cache.keys[1]
    doubled = pytree.tree_map(lambda leaf: leaf * 2, cache)
    torch.testing.assert_close(doubled[0][1], cache[0][1] * 2)


def test_reads_like_transformers_tuple():
    cache = tiny_model()(random_ids(2, 3)).past_key_values
    for (key, value), pair in zip(cache, cache.to_tuple(), strict=True):
        assert key.shape == value.shape == pair[0].shape
    assert repr(cache) == "KVCache(layers=2, batch_size=2, length=3, max_length=3)"
    with pytest.raises(InvalidInputError, match="empty"):
        _ = pt.KVCache.empty(2)[0]


def test_dtype_and_length_of_a_new_cache():
    config = tiny_config(dtype="bfloat16")
    assert pt.KVCache.create(config, 1, 4).keys[0].dtype == torch.bfloat16
    assert pt.KVCache.create(config, 1, 4, dtype=torch.float64).values[1].dtype == torch.float64
    for length in (0, 33):
        with pytest.raises(InvalidInputError, match=f"max_length is {length}.*1 to 32 positions"):
            pt.KVCache.create(config, 1, length)


@pytest.mark.parametrize("form", ["tuple", "preallocated"])
def test_a_past_of_another_dtype_is_converted(form: str):
    model = tiny_model(initializer_range=0.1)
    ids = random_ids(2, 6)
    with torch.no_grad():
        past: Any = pt.KVCache.create(model.config, 2, 8)
        model(ids[:, :4], past_key_values=past)
        past = past.to_tuple() if form == "tuple" else past
        half = model.to(torch.bfloat16)
        after = half(ids[:, 4:], past_key_values=past).logits
    assert_as_close_as(torch.bfloat16, after, half(ids).logits[:, 4:])


@pytest.mark.parametrize(
    ("past", "message"),
    [
        ("cache", "past_key_values must be a KVCache"),
        (((torch.zeros(2, 3, 1, 8),) * 3,) * 2, "past_key_values must be a KVCache"),
        (((torch.zeros(2, 3, 1, 8),) * 2,) * 3, "has 3 layers; this model has 2"),
        (
            ((torch.zeros(3, 3, 1, 8),) * 2,) * 2,
            r"shape \[3, 3, 1, 8\]; it must be \[2, 3, any, 8\]",
        ),
        (((torch.zeros(2, 2, 1, 8),) * 2,) * 2, r"it must be \[2, 3, any, 8\]"),
        (((torch.zeros(2, 3, 32, 8),) * 2,) * 2, "too long: 32 cached and 1 new"),
        (
            ((torch.zeros(2, 3, 4, 8),) * 2, (torch.zeros(2, 3, 5, 8),) * 2),
            r"shape \[2, 3, 5, 8\] in layer 1, but \[2, 3, 4, 8\] in layer 0",
        ),
        (((None, None),) * 2, "past_key_values must be a KVCache"),
        (3, "past_key_values must be a KVCache.*got int"),
    ],
)
def test_bad_pasts_are_refused(past: Any, message: str):
    with pytest.raises(InvalidInputError, match=message):
        tiny_model()(random_ids(2, 1), past_key_values=past)


@pytest.mark.parametrize("past", [3, ((None, None),) * 2])
def test_generation_refuses_bad_pasts(past: Any):
    with pytest.raises(InvalidInputError, match="past_key_values must be a KVCache"):
        tiny_model().generate(random_ids(2, 2), max_new_tokens=1, past_key_values=past)


@pytest.mark.parametrize("grad", [True, False])
def test_methods_by_transformers_names(grad: bool):
    model, ids = tiny_model(), random_ids(2, 4)
    token = random_ids(4, 1)
    with torch.set_grad_enabled(grad):
        cache = model(ids).past_key_values
        assert [layer.values.shape for layer in cache.layers] == [(2, 3, 4, 8)] * 2
        again = pt.KVCache.from_legacy_cache(cache.to_legacy_cache())
        assert torch.equal(again.layers[1].keys, cache[1][0])
        cache.reorder_cache(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        rows = [1, 1, 0, 0]
        text = torch.cat([ids[rows], token], dim=1)
        expected = model(text).logits[:, -1:]
        torch.testing.assert_close(model(token, past_key_values=cache).logits, expected)
        cache.batch_select_indices(torch.tensor([3]))
        last = torch.cat([text[3:], token[:1]], dim=1)
        expected = model(last).logits[:, -1:]
        torch.testing.assert_close(model(token[:1], past_key_values=cache).logits, expected)
    with pytest.raises(InvalidInputError, match=r"KVCache\.empty"):
        pt.KVCache.from_legacy_cache()


def test_it_tells_of_itself_by_the_names_of_transformers():
    model = tiny_model()
    empty = pt.KVCache.empty(2)
    assert (empty.is_initialized, empty.max_batch_size, empty.max_cache_len) == (False, 0, 0)
    cache = pt.KVCache.create(model.config, batch_size=3, max_length=7)
    with torch.no_grad():
        model(random_ids(3, 4), past_key_values=cache)
    assert (cache.is_compileable, cache.is_initialized) == (False, True)
    assert cache.is_sliding == [False, False]
    assert (cache.max_batch_size, cache.max_cache_len, cache.get_max_cache_shape()) == (3, 7, -1)
    assert cache.get_mask_sizes(torch.arange(4, 6), layer_idx=1) == (6, 0)


class TestCache(CacheContract):
    backend = BACKEND
