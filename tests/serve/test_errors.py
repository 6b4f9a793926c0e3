"""What is refused, and how: OpenAI's shape, keys, limits, other origins, what is logged."""

from __future__ import annotations

import hmac
import json
import logging
import socket

import httpx
import openai
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.serve.app import Limits, make_app
from gpt2x.serve.models import Models
from support.serving import NAME, served_model, serving


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url) as http:
        yield http


def error_of(response, status):
    """Return the error of a response of a status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


DEEP = b'{"json_schema": ' + b'{"a":' * 100_000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"3", b'{"prompt": "\\ud800"}', DEEP]
)
def test_a_body_that_is_not_a_json_object_is_422(http, content):
    error = error_of(http.post("/v1/completions", content=content), 422)
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


def nested(depth):
    """Return a schema of so many objects in one another."""
    schema = {}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"n": "two"}, "n"),
        ("/v1/completions", {"logit_bias": {"3": "a"}}, "logit_bias"),
        ("/v1/completions", {"prompt": [["a"]]}, "prompt"),
        ("/v1/chat/completions", {}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": 3}]}, "messages"),
        ("/v1/embeddings", {}, "input"),
        ("/tokenize", {"text": 3}, "text"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/v1/completions", {"seed": 10**30}, "seed"),
        ("/v1/completions", {"json_schema": nested(200)}, "json_schema"),
    ],
)
def test_a_wrong_type_names_its_field(http, path, body, param):
    error = error_of(http.post(path, json=body), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]


def test_what_there_is_not_and_what_is_not_asked_so(http):
    assert error_of(http.get("/v1/nothing"), 404)["type"] == "not_found_error"
    response = http.get("/v1/completions")
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert "POST" in response.headers["allow"]


def test_every_answer_has_an_id_of_its_own(http):
    paths = ("/health", "/v1/models", "/metrics", "/openapi.json", "/nothing")
    found = {http.get(path).headers["x-request-id"] for path in paths}
    assert len(found) == len(paths)


def test_health_tells_life_from_readiness(server, http):
    assert http.get("/health").json() == {"status": "ready", "live": True, "ready": True}
    server.app.state.is_stopping = True
    try:
        for path in ("/health", "/health/ready"):
            response = http.get(path)
            assert response.status_code == 503
            assert response.json() == {"status": "stopping", "live": True, "ready": False}
        assert http.get("/health/live").status_code == 200
        response = http.post("/v1/completions", json={})
        assert error_of(response, 503)["type"] == "service_unavailable_error"
        assert int(response.headers["retry-after"]) > 0
    finally:
        server.app.state.is_stopping = False
    assert http.get("/health").status_code == 200


@pytest.fixture(scope="module")
def guarded():
    """A server that asks for one of two keys, knows a page elsewhere, and takes short bodies."""
    with serving(
        keys=["first key", "zweiter Schlüssel"],
        allowed_origins=["https://page.example"],
        limits=Limits(max_body=2000),
    ) as server:
        yield server


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer first", "Bearer first key2", "Basic first key", "first key"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_without_a_key_nothing_is_told(guarded, path, given):
    headers = {} if given is None else {"Authorization": given}
    response = httpx.get(guarded.url + path, headers=headers)
    error = error_of(response, 401)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_any_of_the_keys_opens(guarded):
    for given in ("Bearer first key", "bearer first key", "Bearer zweiter Schlüssel"):
        headers = {"Authorization": given.encode()}
        assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200
    with guarded.client("first key") as client:
        assert client.models.list().data[0].id == NAME
    with guarded.client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_health_and_the_document_need_no_key(guarded):
    for path in ("/health", "/health/live", "/health/ready", "/openapi.json"):
        assert httpx.get(guarded.url + path).status_code == 200


def test_an_empty_key_is_no_key(server):
    with pytest.raises(InvalidInputError, match="An API key is empty"):
        make_app(Models({NAME: lambda: server.model}), keys=["first", " "])


def test_all_keys_are_compared_in_constant_time(guarded, monkeypatch):
    compared = []

    def compare(given, key):
        compared.append(key)
        return real(given, key)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": "Bearer first key"})
    assert compared == [b"first key", "zweiter Schlüssel".encode()]


KEY = {"Authorization": "Bearer first key"}


def test_a_large_body_is_refused_unread(guarded):
    # What is declared is not waited for: it never comes.
    url = httpx.URL(guarded.url)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer first key\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["type"] == "invalid_request_error"
    assert "2000" in error["message"]


def test_a_large_body_of_no_declared_length_is_refused(guarded):
    pieces = (b"a" * 500 for _ in range(20))
    response = httpx.post(f"{guarded.url}/tokenize", content=pieces, headers=KEY)
    error_of(response, 413)
    fits = json.dumps({"text": "a" * 1900})
    assert httpx.post(f"{guarded.url}/tokenize", content=fits, headers=KEY).status_code == 200


def test_a_large_body_without_a_key_is_not_looked_at(guarded):
    response = httpx.post(f"{guarded.url}/tokenize", content=b"a" * 3000)
    error_of(response, 401)


def asked_from(url, origin):
    """Return the answers to a page's question whether it may ask, and to what it asks."""
    headers = {"Origin": origin}
    before = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    return (
        httpx.options(f"{url}/v1/completions", headers={**headers, **before}),
        httpx.post(f"{url}/tokenize", json={"text": "a"}, headers={**headers, **KEY}),
    )


def test_other_origins_are_closed_by_default(server):
    for response in asked_from(server.url, "https://page.example"):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_a_given_origin_is_open_and_others_are_not(guarded):
    before, answer = asked_from(guarded.url, "https://page.example")
    assert before.status_code == 200
    for response in (before, answer):
        assert response.headers["access-control-allow-origin"] == "https://page.example"
    before, answer = asked_from(guarded.url, "https://other.example")
    assert before.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


BODIES = [
    ("/v1/completions", {"prompt": "a secret\nof two lines", "max_tokens": 1}),
    ("/v1/completions", {"prompt": "a secret", "max_tokens": 1, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a secret"}]}),
    ("/v1/completions", {"prompt": "a secret", "max_tokens": 1000}),
    ("/v1/completions", {"prompt": ["a secret", 3]}),
    ("/v1/embeddings", {"input": "a secret"}),
    ("/tokenize", {"text": "a secret"}),
]


def ask_all(server, bodies):
    """Ask for them; return the ids of the answers."""
    found = []
    for path, body in bodies:
        response = httpx.post(server.url + path, json={"max_tokens": 1, **body})
        found.append(response.headers["x-request-id"])
    return found


def test_nothing_of_a_prompt_is_logged(server, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    ask_all(server, BODIES)
    assert "secret" not in caplog.text
    assert "secret" not in "".join(capfd.readouterr())


def test_prompts_are_logged_if_asked_for(caplog):
    caplog.set_level(logging.INFO, "gpt2x.serve")
    with serving(served_model(), log_prompts=True) as server:
        ids = ask_all(server, BODIES[:3])
    records = [each.getMessage() for each in caplog.records if each.name == "gpt2x.serve"]
    assert len(records) == 3
    for line, request_id, (path, body) in zip(records, ids, BODIES, strict=False):
        assert "\n" not in line
        said = line.split(" ", 2)
        assert said[:2] == [request_id, path]
        assert "a secret" in said[2]
        assert json.loads(said[2])["max_tokens"] == 1
        assert set(json.loads(said[2])) == {"max_tokens", *body}  # what was not given is not there
