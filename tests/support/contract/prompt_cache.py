"""What a prompt cache does in every backend: continuing it gives what the whole prompt gives.

A backend's `tests/.../test_prompt_cache.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gpt2x.errors import CheckpointError, InvalidInputError
from support.contract.backend import Backend, random_ids
from support.golden_data import GOLDEN

PREFIX = random_ids(1, 6, seed=1)
OWN = random_ids(4, 5, seed=2)
WHOLE = np.concatenate([PREFIX.repeat(4, 0), OWN], axis=1)  # [4, 11]
LENGTHS = (11, 8, 7, 10)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "sample": {"do_sample": True, "seed": 4, "num_return_sequences": 2},
    "beam": {"num_beams": 3},
}


def padded(side: str) -> dict[str, np.ndarray]:
    """Return prompts of several lengths that share the prefix, padded on a side."""
    ids, mask = np.zeros_like(WHOLE), np.zeros_like(WHOLE)
    for row, length in enumerate(LENGTHS):
        columns = slice(11 - length, 11) if side == "left" else slice(0, length)
        ids[row, columns], mask[row, columns] = WHOLE[row, :length], 1
    return {"input_ids": ids, "attention_mask": mask}


class PromptCacheContract:
    """Prefill, forks, files, and `generate` behind a cache."""

    backend: Backend
    #: Options that make `generate` run in another way, compiled or not.
    ways: ClassVar[list[dict[str, Any]]] = [{}]
    #: Makes calls of the model visible, if those of a compiled computation are not.
    uncompiled: ClassVar[Callable[[], AbstractContextManager[Any]]]

    @pytest.fixture
    def model(self) -> Any:
        return self.backend.model(eos_token_id=None, n_layer=1)

    @pytest.fixture
    def cache(self, model: Any) -> Any:
        return model.prefill(self.backend.tensor(PREFIX))

    def generate(self, model: Any, input_ids: np.ndarray = WHOLE, **options: Any) -> np.ndarray:
        """Return the texts, by default of options that need one compilation for all tests."""
        is_plain = not options.keys() & {"do_sample", "num_beams", "eos_token_id"}
        defaults = {"max_new_tokens": 5, **(MODES["greedy"] if is_plain else {})}
        given = {
            name: self.backend.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in {"input_ids": input_ids, **defaults, **options}.items()
        }
        return self.backend.array(model.generate(**given))

    @pytest.fixture
    def columns(self, monkeypatch: pytest.MonkeyPatch, model: Any) -> list[Any]:
        """The shapes [rows, columns] of the ids that the model's body is given."""
        seen: list[Any] = []
        kind, name = type(model.base_model), self.call_name
        original = getattr(kind, name)

        def counting(body: Any, input_ids: Any = None, *rest: Any, **inputs: Any) -> Any:
            seen.append(tuple(input_ids.shape))
            return original(body, input_ids, *rest, **inputs)

        monkeypatch.setattr(kind, name, counting)
        return seen

    #: The method of the body that computes.
    call_name: ClassVar[str]

    def test_a_cache_holds_what_the_model_computes_and_knows_its_text(self, model, cache):
        expected = self.backend.call(model, PREFIX).past_key_values
        assert (cache.length, cache.batch_size) == (6, 1)
        for found, wanted in zip(cache.to_tuple()[0], expected.to_tuple()[0], strict=True):
            np.testing.assert_allclose(
                self.backend.array(found), self.backend.array(wanted), rtol=1e-5, atol=1e-5
            )
        np.testing.assert_array_equal(cache.text.input_ids, PREFIX)
        np.testing.assert_array_equal(cache.crop(4).text.input_ids, PREFIX[:, :4])

    @pytest.mark.parametrize("mode", MODES)
    def test_prompts_of_several_lengths_share_a_prefix(self, model, cache, mode):
        options = {**padded("left"), **MODES[mode]}
        expected = self.generate(model, **options)
        for way in self.ways:
            found = self.generate(model, past_key_values=cache, **options, **way)
            np.testing.assert_array_equal(found, expected)
        assert cache.length == 6  # as it was

    def test_padding_on_the_right_and_prompts_of_one_length(self, model, cache):
        for prompts in (padded("right"), {"input_ids": WHOLE}):
            expected = self.generate(model, **prompts)
            found = self.generate(model, past_key_values=cache, **prompts)
            np.testing.assert_array_equal(found, expected)

    def test_the_prefix_is_computed_once(self, model, columns):
        whole = np.concatenate([random_ids(1, 20, seed=3).repeat(3, 0), OWN[:3]], axis=1)
        with self.uncompiled():
            cache = model.prefill(self.backend.tensor(whole[:1, :20]))
            assert {shape for shape in columns if None not in shape} <= {
                (1, 20),
                (1, 32),
            }  # a compiled size is a bucket
            del columns[:]
            self.generate(model, whole, past_key_values=cache, max_new_tokens=2)
        # The own tokens of 3 prompts, and then steps of one token. (TensorFlow also traces for any
        # size.)
        assert {shape for shape in columns if None not in shape} in (
            {(3, 5), (3, 1)},
            {(3, 16), (3, 1)},
        )

    def test_a_prefix_is_continued_by_more_text(self, model, cache):
        longer = model.prefill(self.backend.tensor(WHOLE[:, :9]), past_key_values=cache)
        assert (longer.length, longer.batch_size, cache.length) == (9, 4, 6)
        np.testing.assert_array_equal(longer.text.input_ids, WHOLE[:, :9])
        found = self.generate(model, past_key_values=longer)
        np.testing.assert_array_equal(found, self.generate(model))

    def test_a_padded_cache_goes_on(self, model):
        """Prompts have its padding, or more on the left."""
        short = {name: self.backend.tensor(part[:, :9]) for name, part in padded("left").items()}
        cache = model.prefill(**short)
        assert cache.text.is_text.sum(axis=1).tolist() == [9, 6, 5, 8]
        for more in (0, 2):
            room = [(0, 0), (more, 0)]
            whole: dict[str, Any] = {
                name: np.pad(part, room) for name, part in padded("left").items()
            }
            whole["max_new_tokens"] = 3
            found = self.generate(model, past_key_values=cache, **whole)
            np.testing.assert_array_equal(found, self.generate(model, **whole))
        full = padded("left")
        full["input_ids"][2], full["attention_mask"][2] = WHOLE[2], 1
        with pytest.raises(InvalidInputError, match="4 columns of padding in row 2, and prompt 2"):
            self.generate(model, past_key_values=cache, **full)

    def test_rows_are_copied_next_to_one_another(self, model):
        cache = model.prefill(self.backend.tensor(WHOLE[:2, :7]))
        fork = cache.fork(2)
        assert (fork.batch_size, cache.batch_size, fork.length) == (4, 2, 7)
        ids = WHOLE[[0, 0, 1, 1]]
        np.testing.assert_array_equal(fork.text.input_ids, ids[:, :7])
        logits = self.backend.logits(model, ids[:, 7:], past_key_values=fork)
        expected = self.backend.logits(model, ids)[:, 7:]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert cache.fork(np.int64(2)).text is not None
        for copies in (0, "2", 2.0):
            with pytest.raises(
                InvalidInputError, match=f"copies is {copies!r}; it must be a whole"
            ):
                cache.fork(copies)

    def test_a_file_keeps_a_cache(self, model, cache, tmp_path):
        path = tmp_path / "new" / "prefix.safetensors"
        cache.extend(16).save(path)
        loaded = type(cache).load(path)
        assert (loaded.length, loaded.max_length, loaded.model) == (6, 6, cache.model)
        np.testing.assert_array_equal(loaded.text.input_ids, PREFIX)
        for found, wanted in zip(loaded.to_tuple()[0], cache.to_tuple()[0], strict=True):
            np.testing.assert_array_equal(self.backend.array(found), self.backend.array(wanted))
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_half_precision_is_kept_bit_for_bit(self, cache, tmp_path):
        half = self.in_bfloat16(cache)
        half.save(tmp_path / "half.safetensors")
        found = type(cache).load(tmp_path / "half.safetensors").keys[0]
        assert "bfloat16" in str(found.dtype)
        wanted = half[0][0]
        assert type(cache)._to_numpy(found).tobytes() == type(cache)._to_numpy(wanted).tobytes()

    def in_bfloat16(self, cache: Any) -> Any:
        """Return the cache in bfloat16."""
        raise NotImplementedError

    def test_a_cache_that_another_framework_saved(self):
        """`tests/golden/make_prompt_cache.py` saved it in PyTorch; texts are transformers'."""
        case = json.loads((GOLDEN / "prompt_cache" / "texts.json").read_text())
        model = self.backend.kind("LMHeadModel").from_pretrained(GOLDEN / "plain")
        kind = self.backend.module.KVCache
        cache = kind.load(GOLDEN / "prompt_cache" / "prefix.safetensors")
        options = {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
        prompts = {name: np.array(case[name]) for name in ("input_ids", "attention_mask")}
        found = self.generate(model, past_key_values=cache, **prompts, **options)
        np.testing.assert_array_equal(found, case["sequences"])

    def test_what_does_not_fit_is_refused(self, model, cache, tmp_path):
        other = WHOLE.copy()
        other[2, 3] = (other[2, 3] + 1) % 60
        for ids, options, message in (
            (other, {}, "Prompt 2 does not begin with the text of past_key_values: token 3 is"),
            (PREFIX, {}, "past_key_values hold 6 tokens and prompt 0 only 6"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                self.generate(model, ids, past_key_values=cache, **options)
        with pytest.raises(
            InvalidInputError, match=r"shape \[2, 3, 6, 8\]; it must be \[4, 3, any"
        ):
            self.generate(model, past_key_values=cache.fork(2))
        with pytest.raises(InvalidInputError, match=r"another model: its n_layer is 1, and .* 2"):
            self.generate(self.backend.model(), past_key_values=cache)
        with pytest.raises(InvalidInputError, match=r"prefill\(\) got an unknown argument 'top_k'"):
            model.prefill(self.backend.tensor(PREFIX), top_k=3)
        with pytest.raises(InvalidInputError, match="The cache is empty"):
            type(cache).empty(1).save(tmp_path / "empty.safetensors")
        with pytest.raises(InvalidInputError, match="is a folder"):
            cache.save(tmp_path)
        with pytest.raises(CheckpointError, match="Cannot read"):
            type(cache).load(Path(tmp_path / "missing.safetensors"))
