"""POST /v1/completions, asked by OpenAI's client."""

from __future__ import annotations

import json
import re

import numpy as np
import openai
import pytest
import torch

from support.serving import NAME, model, tokenizer

PROMPT = "ROMEO.\nBut soft, what light"


def ids(text):
    """Return the tokens of a text."""
    return tokenizer()(text)["input_ids"]


def generated(prompt, count=1, new=12, **options):
    """Return the new tokens of texts that `generate` writes."""
    defaults = {"do_sample": False, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    sampling = {"temperature": 1.0} if options.get("do_sample") else {}
    found = model().generate(
        torch.tensor([ids(prompt)]),
        num_return_sequences=count,
        max_new_tokens=new,
        **{**defaults, **sampling, **options},
    )
    return found[:, len(ids(prompt)) :].tolist()


def texts(tokens):
    """Return the texts of lists of tokens."""
    return [tokenizer().decode(each, skip_special_tokens=True) for each in tokens]


def complete(client, prompt=PROMPT, **options):
    """Return the answer of 12 new tokens, the likeliest unless the options say otherwise."""
    given = {"temperature": 0, "max_tokens": 12, **options}
    return client.completions.create(model=NAME, prompt=prompt, **given)


def test_the_likeliest_text_is_that_of_generate(client):
    answer = complete(client)
    (written,) = generated(PROMPT)
    assert [choice.text for choice in answer.choices] == texts([written])
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.model == NAME
    assert answer.id.startswith("cmpl-")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(ids(PROMPT)), 12)
    assert usage.total_tokens == usage.prompt_tokens + 12


OPTIONS = [
    {},
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 5},
    {"min_p": 0.1},
    {"typical_p": 0.5},
    {"repetition_penalty": 1.5},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_seed_gives_the_texts_of_generate(client, options):
    own = {k: v for k, v in options.items() if k not in ("temperature", "top_p")}
    official = {k: v for k, v in options.items() if k not in own}
    answer = complete(client, n=2, seed=7, extra_body=own, **{"temperature": 1, **official})
    expected = generated(PROMPT, 2, do_sample=True, seed=7, **options)
    assert [choice.text for choice in answer.choices] == texts(expected)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_seeds_differ_and_no_seed_is_another_each_time(client):
    found = {
        complete(client, temperature=1, seed=seed).choices[0].text for seed in (1, 2, None, None)
    }
    assert len(found) == 4


def test_a_prompt_may_be_text_or_tokens_and_several_of_them(client):
    other = "JULIET."
    expected = texts([*generated(PROMPT), *generated(other)])
    for prompt in ([PROMPT, other], [ids(PROMPT), ids(other)]):
        answer = complete(client, prompt)
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage.prompt_tokens == len(ids(PROMPT)) + len(ids(other))
        assert answer.usage.completion_tokens == 24
    assert complete(client, ids(other)).choices[0].text == expected[1]


def test_several_prompts_with_several_texts_come_prompt_by_prompt(client):
    answer = complete(client, [PROMPT, "JULIET."], n=2, seed=3, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first = complete(client, PROMPT, n=2, seed=3, temperature=1)
    assert [c.text for c in answer.choices[:2]] == [c.text for c in first.choices]
    assert answer.usage.prompt_tokens == len(ids(PROMPT)) + len(ids("JULIET."))
    assert answer.usage.completion_tokens == 48


def test_an_empty_prompt_begins_a_new_document(client):
    start = tokenizer().bos_token
    expected = complete(client, start)
    answer = complete(client, "")
    assert answer.choices[0].text == expected.choices[0].text
    assert answer.usage.prompt_tokens == 1


def test_best_of_shows_the_likeliest_texts(client):
    several = complete(client, n=4, seed=5, temperature=1, logprobs=0)
    means = [np.mean(choice.logprobs.token_logprobs) for choice in several.choices]
    best = complete(client, n=2, best_of=4, seed=5, temperature=1)
    order = sorted(range(4), key=lambda i: -means[i])[:2]
    assert [c.text for c in best.choices] == [several.choices[i].text for i in order]
    assert best.choices[0].logprobs is None
    assert best.usage.completion_tokens == 48


def log_probabilities(tokens):
    """Return the model's logarithms of probabilities after each of the tokens [T, V]."""
    with torch.no_grad():
        return model()(torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_logprobs_are_the_models_with_alternatives_and_offsets(client):
    answer = complete(client, logprobs=3, seed=2, temperature=1)
    told = answer.choices[0].logprobs
    (new,) = generated(PROMPT, do_sample=True, seed=2)
    scores = log_probabilities(ids(PROMPT) + new)[len(ids(PROMPT)) - 1 : -1]
    expected = scores.gather(1, torch.tensor(new)[:, None])[:, 0]
    np.testing.assert_allclose(told.token_logprobs, expected, atol=1e-4)
    assert told.tokens == [tokenizer().decode([token]) for token in new]
    for alternatives, row in zip(told.top_logprobs, scores, strict=True):
        values, tokens = row.topk(3)
        assert list(alternatives) == [tokenizer().decode([int(token)]) for token in tokens]
        np.testing.assert_allclose(list(alternatives.values()), values, atol=1e-4)
    text = answer.choices[0].text
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert text[offset : offset + len(token)] == token


def test_echo_scores_the_prompt_without_writing(client):
    answer = complete(client, max_tokens=0, echo=True, logprobs=2)
    (choice,) = answer.choices
    assert choice.text == PROMPT
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 0
    told = choice.logprobs
    assert told.tokens == [tokenizer().decode([token]) for token in ids(PROMPT)]
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    scores = log_probabilities(ids(PROMPT))[:-1]
    expected = scores.gather(1, torch.tensor(ids(PROMPT)[1:])[:, None])[:, 0]
    np.testing.assert_allclose(told.token_logprobs[1:], expected, atol=1e-4)
    assert "".join(told.tokens) == PROMPT
    assert told.text_offset == [0, *np.cumsum([len(token) for token in told.tokens])[:-1]]


def test_a_prompt_that_fills_the_model_can_be_scored(client):
    tokens = ids(PROMPT) * 40
    answer = complete(client, tokens[:256], max_tokens=0, echo=True, logprobs=0)
    assert len(answer.choices[0].logprobs.tokens) == 256


def test_echo_shows_the_prompt_before_the_new_text(client):
    answer = complete(client, echo=True, logprobs=0)
    assert answer.choices[0].text == PROMPT + texts(generated(PROMPT))[0]
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(ids(PROMPT)) + 12
    assert told.text_offset[len(ids(PROMPT))] == len(PROMPT)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_text_ends_before_a_stop_string(client, as_list):
    whole = complete(client, max_tokens=30).choices[0].text
    stop = whole[9:12]
    answer = complete(client, max_tokens=30, stop=["no such text", stop] if as_list else stop)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 30


def test_offsets_count_text_that_may_still_be_a_stop_string(client):
    whole = complete(client).choices[0].text
    # The text is held back at every beginning of this one, which never comes whole.
    answer = complete(client, stop=[f"{whole[1:7]}\0"], logprobs=0)
    told = answer.choices[0].logprobs
    assert answer.choices[0].text == whole
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert whole[offset : offset + len(token)] == token


def test_eos_ends_a_text(client):
    eos = tokenizer().eos_token_id
    answer = complete(client, logit_bias={str(eos): 100})
    assert answer.choices[0].text == ""
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 1


def test_logit_bias_changes_what_is_written(client):
    (first, *_), *_ = generated(PROMPT)
    token = ids(" honour")[0]
    answer = complete(client, max_tokens=3, logit_bias={str(token): 100})
    assert answer.choices[0].text == tokenizer().decode([token]) * 3
    answer = complete(client, max_tokens=1, logit_bias={str(first): -100})
    assert answer.choices[0].text != tokenizer().decode([first])


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_forbid_what_the_new_text_has(client, name):
    token, other = ids(" honour")[0], ids(" light")[0]
    bias = {str(token): 100, str(other): 99}
    answer = complete(client, max_tokens=3, logit_bias=bias, **{name: 2})
    first, second = (tokenizer().decode([each]) for each in (token, other))
    # `other` is in the prompt, which does not count.
    expected = first + second + first
    assert answer.choices[0].text == expected


def test_a_regex_and_a_schema_constrain_the_text(client):
    answer = complete(client, temperature=1, seed=1, extra_body={"regex": "[0-9]{3}-[a-f]{2}"})
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", answer.choices[0].text)
    assert answer.choices[0].finish_reason == "stop"
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    own = {"json_schema": schema}
    answer = complete(client, temperature=1, seed=1, max_tokens=40, n=2, extra_body=own)
    for choice in answer.choices:
        assert 0 <= json.loads(choice.text)["age"] <= 99


def test_a_regex_that_proves_too_large_is_the_clients_mistake(client):
    own = {"regex": "(((a{1,99}){1,99}){1,99}){1,99}"}
    with pytest.raises(openai.BadRequestError, match="grammar"):
        complete(client, max_tokens=30, extra_body=own)


def streamed(client, **options):
    """Return the chunks of a stream."""
    return list(complete(client, stream=True, **options))


def test_a_stream_gives_the_same_text_in_pieces(client):
    chunks = streamed(client)
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete(client).choices[0].text
    assert len(chunks) > 3
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert not any(hasattr(chunk, "usage") and chunk.usage for chunk in chunks)


def test_a_stream_of_several_texts_names_them(client):
    whole = complete(client, n=3, seed=9, temperature=1, logprobs=1)
    chunks = streamed(client, n=3, seed=9, temperature=1, logprobs=1)
    for choice in whole.choices:
        own = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert "".join(each.text for each in own) == choice.text
        told = [each.logprobs for each in own]
        assert [token for each in told for token in each.tokens] == choice.logprobs.tokens
        offsets = [offset for each in told for offset in each.text_offset]
        assert offsets == choice.logprobs.text_offset


def test_a_stream_ends_with_the_counts_if_asked(client):
    *chunks, last = streamed(client, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == 12
    assert last.usage.prompt_tokens == len(ids(PROMPT))
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_can_echo(client):
    chunks = streamed(client, echo=True, max_tokens=2)
    expected = PROMPT + texts(generated(PROMPT, new=2))[0]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected


@pytest.mark.parametrize("character", ["🎭", "é", "語"])
def test_streams_send_whole_characters(client, character):
    assert len(ids(character)) > 1
    chunks = streamed(client, max_tokens=12, extra_body={"regex": f"{character}{{3}}"})
    pieces = [chunk.choices[0].text for chunk in chunks]
    assert "".join(pieces) == character * 3
    assert not any("�" in piece for piece in pieces)


def test_prefixes_that_were_run_before_are_told(client):
    tokens = np.random.default_rng(5).integers(100, 4000, 50).tolist()
    first, second = (complete(client, tokens, max_tokens=2) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens < 10
    assert second.usage.prompt_tokens_details.cached_tokens == 49
    assert first.choices[0].text == second.choices[0].text


def test_only_the_end_of_a_long_prompt_is_read_if_asked(client):
    own = {"truncate_prompt_tokens": 5}
    answer = complete(client, PROMPT * 2000, extra_body=own)
    assert answer.choices[0].text == complete(client, ids(PROMPT)[-5:]).choices[0].text
    assert answer.usage.prompt_tokens == 5


WRONG = [
    ({"suffix": "the end"}, "suffix"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "two"]}, "prompt"),
    ({"prompt": [4096]}, "prompt"),
    ({"prompt": "a " * 400}, "prompt"),
    ({"prompt": ["a", "a" * 100_000]}, "prompt"),
    ({"max_tokens": 1000}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 100}, "n"),
    ({"stop": [""]}, "stop"),
    ({"logprobs": 21}, "logprobs"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"5000": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"stream_options": {"include_usage": 3}}, "stream_options"),
    ({"extra_body": {"top_k": -1}}, "top_k"),
    ({"extra_body": {"typical_p": 0}}, "typical_p"),
    ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
    ({"extra_body": {"regex": "("}}, "regex"),
    ({"extra_body": {"json_schema": {"type": "nothing"}}}, "json_schema"),
    ({"extra_body": {"regex": "a", "json_schema": {}}}, "regex"),
]


@pytest.mark.parametrize(("options", "name"), WRONG, ids=range(len(WRONG)))
def test_an_error_names_the_field(client, options, name):
    with pytest.raises(openai.BadRequestError) as raised:
        complete(client, **options)
    assert raised.value.param == name
    assert raised.value.type == "invalid_request_error"
    said = raised.value.message
    assert re.search(rf"\b{name}\b", said) or "texts are asked for" in said


def test_the_coldest_temperature_takes_the_likeliest_token(client):
    # In float32, scores divided by so little would overflow.
    cold = complete(client, temperature=1e-40, max_tokens=5)
    assert cold.choices[0].text == complete(client, temperature=0, max_tokens=5).choices[0].text


def test_fields_that_nobody_knows_are_ignored(client):
    answer = complete(client, extra_body={"no_such_field": 1}, user="somebody")
    assert answer.choices[0].text == texts(generated(PROMPT))[0]
