"""Calls of `generate` in parts, without a framework: their sizes, and how results are joined."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import EncoderRepetitionPenaltyLogitsProcessor
from gpt2x.generation.generate import generate
from gpt2x.generation.numpy_ops import NUMPY_OPS
from support.fake_engine import EOS, VOCAB_SIZE, MarkovEngine
from support.numpy_host import NumpyHost

PROMPTS = np.random.default_rng(1).integers(1, VOCAB_SIZE, (5, 3)).astype(np.int32)
SAMPLING = {"do_sample": True, "max_new_tokens": 12}


class MarkovHost(NumpyHost):
    """Continues whatever prompts it is given; `available` is what it says of the memory."""

    available: int | None = None

    def __init__(self, **options):
        super().__init__(MarkovEngine(NUMPY_OPS, PROMPTS, VOCAB_SIZE), **options)
        self.prefilled = []

    def available_memory(self):
        return self.available

    def prefill(self, prompt):
        self.prefilled.append(len(prompt.input_ids))
        self.engine.prompt = prompt.input_ids[:, : prompt.length]
        return super().prefill(prompt)


def write(host=None, *, batch_size=None, seed=3, **options):
    kwargs = {"input_ids": PROMPTS, **SAMPLING}
    own = ("streamer", "custom_generate", "logits_processor", "stopping_criteria")
    own += ("prefix_allowed_tokens_fn",)
    given = {name: options.pop(name) for name in own if name in options}
    host = host or MarkovHost()
    return generate(host, kwargs=kwargs | options, seed=seed, batch_size=batch_size, **given)


def test_parts_are_equal_and_filled_up_where_each_size_is_compiled():
    whole = write()
    assert (whole == EOS).any(), "a text should end early"
    for batch_size, sizes, filled in (
        (1, [1] * 5, [1] * 5),
        (2, [2, 2, 1], [2, 2, 2]),
        (4, [3, 2], [3, 3]),
        (5, [5], [5]),
        (9, [5], [5]),
    ):
        for host, expected in ((MarkovHost(), sizes), (MarkovHost(widens=True), filled)):
            np.testing.assert_array_equal(write(host, batch_size=batch_size), whole)
            assert host.prefilled == expected


def test_a_call_is_split_only_if_the_estimate_is_above_what_there_is():
    whole = write()
    for available, expected in ((None, [5]), (10**9, [5]), (0, [1] * 5)):
        host = MarkovHost(available=available)
        np.testing.assert_array_equal(write(host), whole)
        assert host.prefilled == expected
    host = MarkovHost(available=0)
    write(host, batch_size=3)  # overrides the estimate
    assert host.prefilled == [3, 2]


def test_what_would_change_is_not_split_by_the_estimate():
    for options in (
        {"streamer": print},
        {"return_dict_in_generate": True},  # has the cache
        {"logits_processor": lambda ids, scores: scores},
        {"stopping_criteria": lambda ids, scores: False},
    ):
        host = MarkovHost(available=0)
        write(host, **options)
        assert host.prefilled == [5]
    for options in (
        {"return_dict_in_generate": True, "use_cache": False},
        {"prefix_allowed_tokens_fn": lambda prompt, text: [1, 2, 3]},
        {"max_time": 1e9},
        {"num_beams": 2},
    ):
        host = MarkovHost(available=0)
        write(host, **options)
        assert host.prefilled == [1] * 5


def test_bad_batch_sizes_are_refused():
    for batch_size in (0, -1, True, 1.5, "2"):
        with pytest.raises(InvalidInputError, match=r"batch_size is .*an integer of at least 1"):
            write(batch_size=batch_size)
    with pytest.raises(InvalidInputError, match=r"batch_size runs .* a streamer takes"):
        write(batch_size=2, streamer=print)
    with pytest.raises(InvalidInputError, match="cannot be combined with custom_generate"):
        write(batch_size=2, custom_generate=lambda *arguments, **options: None)
    with pytest.raises(InvalidInputError, match=r"Inside a tracer, .* leave batch_size out"):
        write(MarkovHost(is_traced=True, tracer="a tracer"), batch_size=2)


def test_records_are_joined_and_filled_up_with_zeros():
    options = {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True}
    whole, parts = write(**options), write(MarkovHost(), batch_size=2, **options)
    np.testing.assert_array_equal(parts.sequences, whole.sequences)
    assert parts.past_key_values is None
    assert whole.past_key_values is not None
    assert len(parts.scores) == len(whole.scores)
    new = whole.sequences[:, 3:]
    is_text = np.cumsum(new == EOS, axis=1) - (new == EOS) == 0
    for step, (found, expected) in enumerate(zip(parts.scores, whole.scores, strict=True)):
        np.testing.assert_array_equal(found[is_text[:, step]], expected[is_text[:, step]])
        assert all(np.isin(found[row], [0, *expected[row]]).all() for row in range(5))
    assert [layers[0].shape for layers in parts.attentions] == [
        layers[0].shape for layers in whole.attentions
    ]


def test_beams_name_rows_of_all_scores():
    options = {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True}
    options |= {"output_scores": True, "do_sample": False}
    whole, parts = write(**options), write(MarkovHost(widens=True), batch_size=2, **options)
    for name in ("sequences", "sequences_scores", "beam_indices"):
        np.testing.assert_array_equal(parts[name], whole[name])


def test_functions_are_given_the_prompts_numbers_and_streams_their_rows():
    def allowed(prompt, text):
        assert text[:3].tolist() == PROMPTS[prompt].tolist()
        return [prompt + 1, prompt + 7]

    options = {"prefix_allowed_tokens_fn": allowed, "num_return_sequences": 2}
    whole = write(**options)
    np.testing.assert_array_equal(write(MarkovHost(widens=True), batch_size=2, **options), whole)
    listed = [(9, row) for row in range(5)]
    np.testing.assert_array_equal(write(batch_size=2, seed=listed), write(seed=9))
    penalty = EncoderRepetitionPenaltyLogitsProcessor(4.0, PROMPTS)
    options = {"logits_processor": [penalty], "encoder_repetition_penalty": 2.0}
    np.testing.assert_array_equal(write(batch_size=2, **options), write(**options))


def test_the_clock_runs_for_all_parts_together(monkeypatch):
    ticks = count()
    monkeypatch.setattr("gpt2x.generation.stopping.time", SimpleNamespace(time=lambda: next(ticks)))
    host = MarkovHost()
    write(host, batch_size=3, max_time=4, do_sample=False, eos_token_id=None)
    rows = [len(prompt.input_ids) for prompt in host.calls]
    assert (rows.count(3), rows.count(2)) == (5, 1)
