"""What the key-value cache does in every backend: the text in pieces is the text as a whole.

A backend's `tests/.../test_cache.py` runs these tests by a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend, assert_close, random_ids

IDS = random_ids(2, 9)
MASK = np.array([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
PIECES = ((0, 4), (4, 5), (5, 9))
ZEROS = np.zeros((2, 3, 1, 8), np.float32)

BAD_PASTS = [
    ("cache", "past_key_values must be a KVCache"),
    (((ZEROS,) * 3,) * 2, "past_key_values must be a KVCache"),
    (((None, None),) * 2, "past_key_values must be a KVCache"),
    (3, "past_key_values must be a KVCache.*got int"),
    (((ZEROS,) * 2,) * 3, "has 3 layers; this model has 2"),
    (((ZEROS[[0, 1, 1]],) * 2,) * 2, r"shape \[3, 3, 1, 8\]; it must be \[2, 3, any, 8\]"),
    (((ZEROS[:, :2],) * 2,) * 2, r"it must be \[2, 3, any, 8\]"),
    (((ZEROS.repeat(32, 2),) * 2,) * 2, "too long: 32 cached and 1 new"),
    (
        ((ZEROS.repeat(4, 2),) * 2, (ZEROS.repeat(5, 2),) * 2),
        r"shape \[2, 3, 5, 8\] in layer 1, but \[2, 3, 4, 8\] in layer 0",
    ),
]


class CacheContract:
    """Forms of the cache, and the changes that it takes."""

    backend: Backend

    def whole(self, **inputs: Any) -> np.ndarray:
        return self.backend.logits(self.backend.model(), IDS, **inputs)

    def filled(self, length: int) -> Any:
        """Return the cache of the first tokens."""
        return self.backend.call(self.backend.model(), IDS[:, :length]).past_key_values

    def rest(self, past: Any, start: int, rows: list[int] | None = None) -> np.ndarray:
        """Return the logits of the tokens from `start` on, which follow what a cache holds."""
        ids = IDS if rows is None else IDS[rows]
        return self.backend.logits(self.backend.model(), ids[:, start:], past_key_values=past)

    @pytest.mark.parametrize("form", ["none", "preallocated", "tuple"])
    def test_pieces_give_what_the_whole_gives(self, form):
        model, past, logits = self.backend.model(), None, []
        if form == "preallocated":
            past = self.backend.module.KVCache.create(model.config, 2, 12)
        for start, end in PIECES:
            inputs = {"past_key_values": past, "attention_mask": MASK[:, :end]}
            output = self.backend.call(model, IDS[:, start:end], **inputs)
            logits.append(self.backend.array(output.logits))
            past = output.past_key_values
            if form == "tuple":
                past = past if isinstance(past, tuple) else past.to_tuple()
                assert tuple(past[0][0].shape) == (2, 3, end, 8)
            else:
                assert int(past.length) == int(past.get_seq_length()) == end
                assert past.max_length == (12 if form == "preallocated" else end)
        assert_close(np.concatenate(logits, axis=1), self.whole(attention_mask=MASK))

    def test_the_form_given_is_the_form_returned(self):
        cache, model = self.filled(4), self.backend.model()
        assert isinstance(cache, self.backend.module.KVCache)
        assert (int(cache.length), cache.max_length, cache.batch_size, len(cache)) == (4, 4, 2, 2)
        pairs = cache.to_tuple()
        before = [self.backend.array(tensor).copy() for pair in pairs for tensor in pair]
        output = self.backend.call(model, IDS[:, 4:5], past_key_values=pairs)
        assert isinstance(output.past_key_values, tuple)
        assert tuple(output.past_key_values[1][1].shape) == (2, 3, 5, 8)
        after = [self.backend.array(tensor) for pair in pairs for tensor in pair]
        for given, kept in zip(after, before, strict=True):
            np.testing.assert_array_equal(given, kept)
        lists = [list(pair) for pair in pairs]
        assert_close(self.rest(lists, 4), self.whole()[:, 4:])

    def test_without_use_cache_none_is_returned(self):
        model = self.backend.model()
        assert self.backend.call(model, IDS, use_cache=False).past_key_values is None
        inputs = {"past_key_values": self.filled(4), "use_cache": False}
        assert_close(self.backend.logits(model, IDS[:, 4:], **inputs), self.whole()[:, 4:])

    def test_a_cropped_cache_goes_on_from_there(self):
        for length, kept in ((4, 4), (-2, 4)):
            cache = self.filled(6).crop(length)
            assert int(cache.length) == kept
            assert_close(self.rest(cache, kept), self.whole()[:, kept:])
        for length in (7, -7):
            with pytest.raises(InvalidInputError, match=f"a cache of length 6 to {length}"):
                self.filled(6).crop(length)

    def test_an_extended_cache_keeps_what_it_holds(self):
        cache = self.filled(4).extend(12)
        assert (int(cache.length), cache.max_length) == (4, 12)
        assert_close(self.rest(cache, 4), self.whole()[:, 4:])
        with pytest.raises(InvalidInputError, match="Cannot extend to 3 positions: 4 are filled"):
            self.filled(4).extend(3)

    @pytest.mark.parametrize("room", [0, 12])
    def test_forks_go_on_apart(self, room):
        model, first = self.backend.model(), self.filled(4)
        first = first.extend(room) if room else first
        second = first.fork()
        other = (IDS[:, 4:] + 1) % 60
        self.backend.call(model, other, past_key_values=second)
        assert int(first.length) == 4
        assert_close(self.rest(first, 4), self.whole()[:, 4:])

    def test_reordered_rows_go_on_as_their_parents(self):
        rows = [1, 0, 1]
        cache = self.filled(4).reorder(self.backend.tensor(np.array(rows)))
        assert cache.batch_size == 3
        assert_close(self.rest(cache, 4, rows), self.whole()[rows, 4:])

    def test_pairs_make_a_cache(self):
        kind = self.backend.module.KVCache
        cache = kind.from_tuple(self.filled(4).to_tuple())
        assert (len(cache), int(cache.length), cache.batch_size) == (2, 4, 2)
        assert f"{kind.__name__}(layers=2, batch_size=2, length=4" in repr(cache)
        assert_close(self.rest(cache, 4), self.whole()[:, 4:])

    def test_cross_attention_is_kept(self):
        """The encoder's keys and values are computed once; a step does not need its states."""
        model = self.backend.model(add_cross_attention=True)
        states = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
        whole = self.backend.logits(model, IDS, encoder_hidden_states=states)
        first = self.backend.call(model, IDS[:, :4], encoder_hidden_states=states)
        past = first.past_key_values
        pairs = past.to_tuple()
        shapes = [tuple(tensor.shape) for tensor in pairs[0]]
        assert shapes == [(2, 3, 4, 8)] * 2 + [(2, 3, 5, 8)] * 2
        for form in (pairs, past):
            step = self.backend.logits(
                model, IDS[:, 4:], past_key_values=form, encoder_hidden_states=states
            )
            assert_close(step, whole[:, 4:])

    @pytest.mark.parametrize(("past", "message"), BAD_PASTS)
    def test_bad_pasts_are_refused(self, past, message):
        if isinstance(past, tuple) and past[0][0] is not None:
            past = tuple(tuple(map(self.backend.tensor, pair)) for pair in past)
        with pytest.raises(InvalidInputError, match=message):
            self.backend.call(self.backend.model(), IDS[:, :1], past_key_values=past)
