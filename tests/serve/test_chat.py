"""POST /v1/chat/completions, asked by OpenAI's client."""

from __future__ import annotations

import copy
import json

import openai
import pytest
import torch

from gpt2x.serve.messages import Message
from gpt2x.serve.requests import prompt_of_messages
from support.serving import NAME, model, served_model, serving, tokenizer

MESSAGES = [
    {"role": "system", "content": "Speak in verse."},
    {"role": "user", "content": "Who is there?"},
]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ message['role'] }}> {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def templated():
    """A client of a model whose tokenizer has a chat template."""
    served = served_model()
    served.tokenizer = copy.deepcopy(tokenizer())
    served.tokenizer.chat_template = TEMPLATE
    with serving(served) as server, server.client() as client:
        yield client


def say(client, messages=MESSAGES, **options):
    """Return the answer of 12 tokens at most, the likeliest unless the options say otherwise."""
    given = {"temperature": 0, "max_tokens": 12, **options}
    return client.chat.completions.create(model=NAME, messages=messages, **given)


def likeliest(prompt):
    """Return the text that `generate` writes after a prompt, of 12 tokens."""
    ids = torch.tensor([tokenizer()(prompt)["input_ids"]])
    found = model().generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
    return tokenizer().decode(found.tolist(), skip_special_tokens=True)


PLAIN = "SYSTEM.\nSpeak in verse.\n\nUSER.\nWho is there?\n\nASSISTANT.\n"


def test_without_a_template_a_conversation_is_written_as_a_play(client):
    answer = say(client)
    assert answer.choices[0].message.content == likeliest(PLAIN)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.prompt_tokens == len(tokenizer()(PLAIN)["input_ids"])
    assert answer.usage.completion_tokens == 12


def test_a_template_makes_the_prompt(templated):
    prompt = "<system> Speak in verse.\n<user> Who is there?\n<assistant>"
    assert say(templated).choices[0].message.content == likeliest(prompt)


def test_what_a_template_raises_names_the_messages(templated):
    with pytest.raises(openai.BadRequestError, match="no tools") as raised:
        say(templated, [{"role": "tool", "content": "7", "tool_call_id": "1"}])
    assert raised.value.param == "messages"


def test_content_may_come_in_parts(client):
    parts = [{"type": "text", "text": "Who is "}, {"type": "text", "text": "there?"}]
    messages = [MESSAGES[0], {"role": "user", "content": parts}]
    assert say(client, messages).choices[0].message == say(client).choices[0].message
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(openai.BadRequestError) as raised:
        say(client, [{"role": "user", "content": [picture]}])
    assert raised.value.param == "messages"


def test_messages_without_content_are_empty(server):
    message = Message(role="assistant", content=None)
    prompt = prompt_of_messages(server.model, [message])
    assert tokenizer().decode(prompt) == "ASSISTANT.\n\n\nASSISTANT.\n"


def test_a_stream_gives_the_same_message(client):
    chunks = list(say(client, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == say(client).choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert last.choices == []
    assert last.usage.completion_tokens == 12


def test_logprobs_tell_tokens_with_bytes_and_alternatives(client):
    answer = say(client, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == 12
    for each in content:
        # The likeliest token was taken.
        assert each.token == each.top_logprobs[0].token
        assert each.logprob == each.top_logprobs[0].logprob
        assert len(each.top_logprobs) == 2
    written = bytes(byte for each in content for byte in each.bytes)
    assert written.decode() == answer.choices[0].message.content
    assert say(client).choices[0].logprobs is None
    chunks = say(client, logprobs=True, top_logprobs=2, stream=True)
    told = [c.choices[0].logprobs.content for c in chunks if c.choices[0].logprobs]
    assert [each for piece in told for each in piece] == content


def test_either_name_limits_the_tokens(client):
    answer = say(client, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3
    with pytest.raises(openai.BadRequestError) as raised:
        say(client, max_completion_tokens=1000)
    assert raised.value.param == "max_completion_tokens"
    assert raised.value.code == "context_length_exceeded"
    for count in (400, 20_000):
        with pytest.raises(openai.BadRequestError) as raised:
            say(client, [{"role": "user", "content": "word " * count}])
        assert raised.value.param == "messages"
        assert raised.value.code == "context_length_exceeded"


def test_without_a_limit_a_text_fills_the_model(client):
    answer = say(client, max_tokens=None, logit_bias={str(tokenizer().eos_token_id): -100})
    assert answer.usage.total_tokens == 256


def test_several_messages_are_those_of_their_seed(client):
    first, second = (say(client, n=3, seed=4, temperature=1) for _ in range(2))
    assert first.choices == second.choices
    assert len({choice.message.content for choice in first.choices}) == 3


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Romeo", "Juliet"]}},
    "required": ["name"],
    "additionalProperties": False,
}


def test_an_answer_follows_its_format(client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    options = {"temperature": 1, "seed": 2, "max_tokens": 40}
    answer = say(client, response_format=form, **options)
    assert json.loads(answer.choices[0].message.content)["name"] in ("Romeo", "Juliet")
    answer = say(client, response_format={"type": "json_object"}, **options)
    assert answer.choices[0].message.content.startswith("{")
    plain = say(client, response_format={"type": "text"})
    assert plain.choices == say(client).choices


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}},
        {"type": "verse"},
    ],
)
def test_a_format_that_cannot_be_followed_is_named(client, form):
    with pytest.raises(openai.BadRequestError) as raised:
        say(client, response_format=form)
    assert raised.value.param == "response_format"


def test_a_format_without_its_library_names_the_extra(client, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match=r"gpt2x\[guided\]") as raised:
        say(client, response_format={"type": "json_object"})
    assert raised.value.param == "response_format"


@pytest.mark.parametrize(
    ("messages", "param"),
    [([], "messages"), ([{"content": "Who?"}], "messages"), (None, "messages")],
)
def test_messages_that_cannot_be_read_are_named(client, messages, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", body={"messages": messages}, cast_to=object)
    assert raised.value.param == param
