"""The recipe of `generate`, without a framework: what is prepared, streamed, kept and refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerateDecoderOnlyOutput
from gpt2x.generation.generate import generate, prepare, steps
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.seeds import streams
from support.fake_engine import SpellingEngine, read, spell
from support.numpy_host import NumpyHost

STORIES = ["the cat sat", "a dog ran$"]
PROMPT = spell("the", "a d")


def host_of(stories=STORIES, prompt_length=3, **options):
    return NumpyHost(SpellingEngine(NUMPY_OPS, stories, prompt_length), **options)


def test_one_loop_and_steps_write_the_same():
    for options in ({}, {"do_sample": True, "seed": 3}, {"do_sample": True, "num_beams": 2}):
        seed = options.pop("seed", None)
        kwargs = {"input_ids": PROMPT, "max_new_tokens": 6, **options}
        expected = generate(host_of(), kwargs=kwargs, seed=seed)
        found = generate(host_of(fuses=False), kwargs=kwargs, seed=seed)
        np.testing.assert_array_equal(found, expected)


def test_steps_yield_tokens_before_the_model_computes_on_them_and_return_the_result():
    host = host_of()
    tokens = steps(host, kwargs={"inputs": PROMPT, "max_new_tokens": 4})
    texts, calls = [], []
    while True:
        try:
            texts.append(read([next(tokens)])[0])
        except StopIteration as end:
            result = end.value
            break
        calls.append(host.engine.calls)
    assert texts == [" o", "cg", "a ", "tr"]
    assert calls == [1, 2, 3, 4]
    assert read(result) == ["the cat", "a dog r"]
    kwargs = {"inputs": PROMPT, "max_new_tokens": 4}
    np.testing.assert_array_equal(result, generate(host_of(), kwargs=kwargs))


@pytest.mark.parametrize(
    ("quick", "options", "calls"),
    [
        (np.inf, {"chunk": 4}, [1, 2, 4, 4, 8, 8, 8, 8]),
        (np.inf, {"chunk": 2}, [1, 2, 4, 4, 6, 6, 8, 8]),
        (np.inf, {"chunk": 4, "fuses": False}, [1, 2, 3, 4, 5, 6, 7, 8]),
        (-np.inf, {"chunk": 4}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=["chunks grow", "a bound", "stepwise", "slow"],
)
def test_chunks_are_yielded_before_the_model_computes_the_next(quick, options, calls, monkeypatch):
    monkeypatch.setattr("gpt2x.generation.generate.QUICK", quick)
    chunk = options.pop("chunk")
    host = host_of(["the cat sat here"], **options)
    kwargs = {"input_ids": PROMPT[:1], "max_new_tokens": 8}
    found = [
        (read([tokens])[0], host.engine.calls) for tokens in steps(host, chunk=chunk, kwargs=kwargs)
    ]
    assert "".join(text for text, _ in found) == " cat sat"
    assert [count for _, count in found] == calls


def test_chunks_end_where_the_text_does(monkeypatch):
    monkeypatch.setattr("gpt2x.generation.generate.QUICK", np.inf)
    host = host_of(["a dog$"])
    kwargs = {"input_ids": PROMPT[1:], "max_new_tokens": 20}
    assert read([np.concatenate([*steps(host, chunk=8, kwargs=kwargs)])]) == ["og$"]
    assert host.engine.calls == 3


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, None])
def test_a_chunk_has_at_least_a_token(chunk):
    with pytest.raises(InvalidInputError, match="chunk must be an integer of at least 1"):
        steps(host_of(), chunk=chunk, kwargs={"input_ids": PROMPT})


def test_a_streamer_gets_the_prompts_then_each_step():
    class Log(list):
        put = list.append

        def end(self):
            self.append("end")

    log = Log()
    generate(host_of(), kwargs={"input_ids": PROMPT, "max_new_tokens": 2}, streamer=log)
    assert [read(np.atleast_2d(item)) for item in log[:-1]] == [["the", "a d"], [" o"], ["cg"]]
    assert log[-1] == "end"


def test_checks_come_before_the_first_step():
    for arguments, message in (
        ({"kwargs": {"input_ids": PROMPT, "num_beams": 2}}, "cannot be streamed"),
        ({"kwargs": {"input_ids": PROMPT + 99}}, "input_ids holds"),
        ({"kwargs": {"input_ids": PROMPT}, "assistant_model": 1}, "assistant_model"),
        ({"kwargs": {"input_ids": PROMPT, "max_newtokens": 1}}, "Did you mean 'max_new_tokens'"),
        ({"kwargs": {"input_ids": PROMPT, "position_ids": [[1, 2]]}}, "position_ids has shape"),
    ):
        host = host_of()
        with pytest.raises(InvalidInputError, match=message):
            steps(host, **arguments)
        assert host.calls == []


def test_what_the_host_must_see_is_refused_inside_a_traced_function():
    host = host_of(is_traced=True, tracer="a tracer")
    with pytest.raises(InvalidInputError, match="Inside a tracer, generate cannot return"):
        generate(host, kwargs={"input_ids": PROMPT}, streamer=print)
    kwargs = {"input_ids": PROMPT, "max_new_tokens": 3, "return_dict_in_generate": True}
    output = generate(host, kwargs=kwargs)
    assert type(output) is GenerateDecoderOnlyOutput
    assert read(output.sequences) == ["the ca", "a dog "]


def test_prompts_are_padded_where_sizes_are_rounded_up():
    host = host_of(widens=True)
    run = prepare(host, kwargs={"input_ids": PROMPT, "max_new_tokens": 5})
    assert run.prompts.main.input_ids.shape == run.settings.prompt.shape == (2, 16)
    assert (run.prompts.main.length, run.settings.prompt_length) == (3, 3)
    assert run.plan.strategy.capacity == 16
    np.testing.assert_array_equal(run.input_ids, PROMPT)


def test_a_past_leaves_the_rest_of_the_prompt_and_needs_one():
    past = SimpleNamespace(length=2, batch_size=2)
    past.extend = lambda slots: SimpleNamespace(length=2, batch_size=2, slots=slots)
    kwargs = {"input_ids": PROMPT, "past_key_values": past, "max_new_tokens": 5}
    prompt = prepare(host_of(buckets=False), kwargs=kwargs).prompts.main
    np.testing.assert_array_equal(prompt.input_ids, PROMPT[:, 2:])
    assert prompt.past.slots == 8
    past.length = 3
    with pytest.raises(InvalidInputError, match="past_key_values hold 3 tokens and the prompt 3"):
        prepare(host_of(), kwargs=kwargs)
    run = prepare(host_of(), kwargs={**kwargs, "use_cache": False})
    assert not run.prompts.main.has_past


def test_what_is_given_for_the_prompt_goes_on_with_the_text():
    mask = np.array([[0, 1, 1], [1, 1, 1]])
    kwargs = {"input_ids": PROMPT, "attention_mask": mask, "max_new_tokens": 3}
    host = host_of(buckets=False)
    columns = prepare(host, kwargs={**kwargs, "position_ids": [[4, 5, 6]]}).prompts.main.columns
    assert columns["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert columns["position_ids"].tolist() == [[4, 5, 6, 7, 8, 9]] * 2


def test_prompts_are_expanded_once_and_records_cut_to_what_is_text():
    host = host_of(fuses=False)
    kwargs = {
        "input_ids": PROMPT,
        "attention_mask": np.array([[0, 1, 1], [1, 1, 1]]),
        "max_new_tokens": 3,
        "num_beams": 2,
        "return_dict_in_generate": True,
        "output_attentions": True,
    }
    output = generate(host, kwargs=kwargs)
    masks = [call.columns["attention_mask"][:, 0].tolist() for call in host.calls]
    assert masks == [[0, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert [step[0].shape[2:] for step in output.attentions] == [(3, 3), (1, 4), (1, 5)]


@pytest.mark.parametrize("options", [{}, {"do_sample": True}])
def test_a_seed_is_checked_whether_or_not_it_is_used(options):
    kwargs = {"input_ids": PROMPT, **options}
    for seed in (-1, 1.5, "1", [(1, 0)]):
        with pytest.raises(InvalidInputError, match=r"[sS]eed"):
            prepare(host_of(), kwargs=kwargs, seed=seed)


def test_seeds_are_drawn_from_the_host():
    kwargs = {"input_ids": PROMPT, "do_sample": True}
    keys = prepare(host_of(), kwargs=kwargs).settings.keys
    np.testing.assert_array_equal(keys, streams(7, 2).keys(NUMPY_OPS))
