"""`num_beams`: texts that a beam search finds, beside those of the batch."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from gpt2x import EMBEDDED_MODEL, GPT2LMHeadModel
from gpt2x.batching.batch import Text
from gpt2x.batching.options import TextOptions
from gpt2x.serve import beams
from gpt2x.serve.app import make_app
from gpt2x.serve.beams import Search
from gpt2x.serve.models import Models, ServedModel, load_served

PROMPT = "And the king said"


@pytest.fixture(scope="module")
def served() -> ServedModel:
    """The embedded model."""
    source = str(EMBEDDED_MODEL)

    def load() -> GPT2LMHeadModel:
        return GPT2LMHeadModel.from_pretrained(source)

    return load_served("bard", source, {}, "pt", load, max_batch=2, max_queue=3)


@pytest.fixture
def client(served) -> TestClient:
    app = make_app(Models({"bard": lambda: served}))
    # Without its lifespan, which would stop the model's threads for the tests behind.
    return TestClient(app)


def complete(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def found(served: ServedModel, prompt: str = PROMPT, **options: Any) -> list[str]:
    """Return the texts that `generate` finds."""
    ids = torch.tensor([served.encode(prompt)])
    given = {"max_new_tokens": 8, "num_beams": 4, "do_sample": False, **options}
    output = served.model.generate(ids, attention_mask=torch.ones_like(ids), **given)
    return [served.tokenizer.decode(row[ids.shape[1] :].tolist()) for row in output]


def test_texts_are_those_of_generate_the_likeliest_first(served, client):
    answer = complete(client, num_beams=4, n=3)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == found(served, num_return_sequences=3)
    assert len(set(texts)) == 3
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 24


def test_each_prompt_has_a_search_of_its_own(served, client):
    prompts = [PROMPT, "Enter ROMEO."]
    answer = complete(client, num_beams=4, n=2, prompt=prompts)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [t for p in prompts for t in found(served, p, num_return_sequences=2)]


def test_other_options_reach_the_search(served, client):
    token = served.encode(found(served)[0])[0]
    bias = {str(token): -100.0}
    answer = complete(client, num_beams=4, logit_bias=bias, repetition_penalty=1.3)
    options = {"sequence_bias": {(token,): -100.0}, "repetition_penalty": 1.3}
    assert answer["choices"][0]["text"] == found(served, **options)[0]
    (text,) = found(served)
    stop = text[5:8]
    ended = complete(client, num_beams=4, stop=stop)["choices"][0]
    assert (ended["text"], ended["finish_reason"]) == (text[: text.index(stop)], "stop")
    answer = complete(client, num_beams=3, regex=" [a-c]{4}z")
    assert answer["choices"][0]["text"][-1] == "z"


def test_a_stream_has_the_same_texts(served, client):
    with client.stream(
        "POST",
        "/v1/completions",
        json={"prompt": PROMPT, "max_tokens": 8, "num_beams": 4, "n": 2, "stream": True},
    ) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    texts = ["", ""]
    for line in lines:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == found(served, num_return_sequences=2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 5}, "n"),
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"logprobs": 1}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"regex": "("}, "regex"),
    ],
)
def test_what_does_not_go_with_beams_is_named(client, fields, param):
    response = client.post(
        "/v1/completions", json={"prompt": PROMPT, "max_tokens": 8, "num_beams": 4, **fields}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_search_that_nobody_waits_for_ends_and_the_next_begins(served, monkeypatch):
    steps: list[int] = []
    begun = threading.Event()
    ask = beams._GivenUp.__call__

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(len(steps))
        begun.set()
        return ask(self, *arguments, **options)

    monkeypatch.setattr(beams._GivenUp, "__call__", counted)

    def search(new: int) -> Search:
        options = TextOptions(max_new_tokens=new)
        common = {"prompt": served.encode(PROMPT), "options": options, "receive": lambda *_: True}
        return Search(**common, arguments={"num_beams": 2}, found=[Text(**common)])

    long, short = search(200), search(3)
    ended = threading.Event()
    short.ended = ended.set
    served.searcher.submit([long, short])
    assert begun.wait(60)
    served.searcher.cancel(long)
    assert ended.wait(60)
    assert len(short.found[0].new) == 3
    assert len(steps) < 150


def test_a_search_that_fails_fails_alone(served, client, monkeypatch, caplog):
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(served.model, "generate", fail)
    fields = {"prompt": PROMPT, "max_tokens": 8}
    response = client.post("/v1/completions", json={**fields, "num_beams": 4})
    assert response.status_code == 500
    assert "no memory" not in response.text  # what went wrong is told to the log alone
    assert "no memory" in caplog.text
    assert client.post("/v1/completions", json=fields).status_code == 200
