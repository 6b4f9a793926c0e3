"""POST /v1/embeddings, /tokenize, /detokenize and GET /v1/models, asked by OpenAI's client."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import torch

from support.serving import NAME, model, tokenizer

TEXTS = ["Now is the winter", "of our discontent made glorious"]


def mean_states(text):
    """Return the mean of the last hidden states of a text."""
    with torch.no_grad():
        ids = torch.tensor([tokenizer()(text)["input_ids"]])
        return model().base_model(ids).last_hidden_state[0].mean(0).numpy()


def embed(client, given, **options):
    return client.embeddings.create(model=NAME, input=given, **options)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_an_embedding_is_the_mean_of_the_last_hidden_states(client, encoding):
    answer = embed(client, TEXTS, encoding_format=encoding)
    for index, (text, found) in enumerate(zip(TEXTS, answer.data, strict=True)):
        assert found.index == index
        vector = found.embedding
        if encoding == "base64":
            vector = np.frombuffer(base64.b64decode(vector), "<f4")
        np.testing.assert_allclose(vector, mean_states(text), atol=1e-5)
    count = sum(len(tokenizer()(text)["input_ids"]) for text in TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == count


def test_the_client_asks_for_base64_by_itself(client):
    (found,) = embed(client, TEXTS[0]).data
    np.testing.assert_allclose(found.embedding, mean_states(TEXTS[0]), atol=1e-5)


def test_texts_may_be_tokens(client):
    tokens = [tokenizer()(text)["input_ids"] for text in TEXTS]
    assert embed(client, tokens).data == embed(client, TEXTS).data
    assert embed(client, tokens[0]).data == embed(client, TEXTS[0]).data


@pytest.mark.parametrize(
    ("given", "options", "param"),
    [
        ([], {}, "input"),
        ([[]], {}, "input"),
        ("word " * 400, {}, "input"),
        (["a"] * 2049, {}, "input"),
        ([5000], {}, "input"),
        ("a", {"dimensions": 3}, "dimensions"),
        ("a", {"encoding_format": "text"}, "encoding_format"),
    ],
    ids=range(7),
)
def test_an_error_names_the_field(client, given, options, param):
    with pytest.raises(openai.BadRequestError) as raised:
        embed(client, given, **options)
    assert raised.value.param == param


def test_all_dimensions_may_be_asked_for(client):
    assert len(embed(client, "a", dimensions=192).data[0].embedding) == 192


def test_models_are_listed_and_shown(client):
    (card,) = client.models.list().data
    assert (card.id, card.object, card.owned_by) == (NAME, "model", "gpt2x")
    assert card.created > 1_600_000_000
    assert client.models.retrieve(NAME) == card
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("no/such model")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match=NAME) as raised:
        client.completions.create(model="another", prompt="a")
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url) as http:
        yield http


def test_tokens_of_a_text_and_back(http):
    text = "Exit, pursued by a bear. 🎭 é"
    answer = http.post("/tokenize", json={"text": text}).json()
    expected = tokenizer()(text, return_offsets_mapping=True)
    assert answer["tokens"] == expected["input_ids"]
    assert answer["count"] == len(expected["input_ids"])
    assert answer["max_model_len"] == 256
    assert answer["offsets"] == [list(pair) for pair in expected["offset_mapping"]]
    # What a token adds is the text from its start to its end.
    starts = {text[start:end] for start, end in answer["offsets"]}
    assert {" bear", "🎭"} <= starts
    back = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"text": text}


def test_special_tokens_are_text(http):
    answer = http.post("/tokenize", json={"text": "a<|endoftext|>", "add_special_tokens": False})
    assert answer.json()["tokens"][-1] == tokenizer().eos_token_id
    back = http.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()
    assert back == {"text": "a<|endoftext|>"}
    assert http.post("/tokenize", json={"text": ""}).json()["offsets"] == []


def test_a_long_text_leaves_others_be(server, http):
    # The server answers others while it encodes: their answers come in the meantime.
    text = "Exit, pursued by a bear. " * 10_000
    with ThreadPoolExecutor() as pool:
        long = pool.submit(httpx.post, f"{server.url}/tokenize", json={"text": text}, timeout=None)
        answered = 0
        while not long.done():
            assert http.post("/tokenize", json={"text": "Exit"}).status_code == 200
            answered += 1
    assert long.result().json()["count"] > 50_000
    assert answered > 5


def test_tokens_that_there_are_not_are_refused(http):
    answer = http.post("/detokenize", json={"tokens": [4096]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tokens"
