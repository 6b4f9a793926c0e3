"""What goes wrong beside others: clients that go away, readers that are slow, steps that fail."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import openai
import pytest

from gpt2x.serve import embeddings
from gpt2x.serve.app import Limits
from support.serving import NAME, NAN_TOKEN, RAISING_TOKEN, served_model, serving, until

COUNT = 100
LONG = {"prompt": "ROMEO.", "max_tokens": COUNT, "temperature": 0, "logit_bias": {"4095": -100}}


@pytest.fixture
def one():
    """A server with two rows and room for two texts that wait."""
    with serving(served_model(rows=2, max_queue=2)) as server:
        yield server


def is_idle(server):
    """Whether nothing is written, and nothing waits."""
    metrics = server.metrics()
    return metrics["gpt2x_texts_running", NAME] == metrics["gpt2x_texts_waiting", NAME] == 0


def send(server, body, path="/v1/completions"):
    """Send a request; return its connection, on which nothing is read."""
    data = json.dumps(body).encode()
    url = httpx.URL(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it takes little unread
    connection.connect((url.host, url.port))
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(one, stream):
    one.slots.goes_on.clear()
    with send(one, {**LONG, "stream": stream, "n": 2}):
        until(lambda: one.model.runner.running + one.model.runner.waiting == 2)
    if stream:  # nothing is known of a client that has gone before something is sent to it
        one.slots.goes_on.set()
    else:
        until(lambda: len(one.model.runner._cancelled) == 2)
        one.slots.goes_on.set()
    until(lambda: is_idle(one))
    metrics = one.metrics()
    assert metrics["gpt2x_texts_total", NAME, "cancelled"] == 2
    assert metrics["gpt2x_written_tokens_total", NAME] < 2 * COUNT


def test_a_client_that_goes_away_in_the_middle_of_a_stream_frees_its_row(one):
    with one.client() as client:
        one.slots.goes_on.allow(3)
        stream = client.completions.create(model=NAME, stream=True, **LONG)
        next(stream)
        stream.close()
        until(lambda: one.model.runner._cancelled)
        one.slots.goes_on.set()
        until(lambda: is_idle(one))
        assert one.metrics()["gpt2x_texts_total", NAME, "cancelled"] == 1
        # Its room is another's.
        assert client.completions.create(model=NAME, **LONG).usage.completion_tokens == COUNT


def test_a_slow_reader_delays_nobody(one):
    with send(one, {**LONG, "stream": True, "logprobs": 20}), one.client() as client:
        answer = client.completions.create(model=NAME, **LONG)
        assert answer.usage.completion_tokens == COUNT
        # It has written all of the other text too, of which nobody has read anything.
        until(lambda: is_idle(one))
        metrics = one.metrics()
        assert metrics["gpt2x_written_tokens_total", NAME] == 2 * COUNT


def test_a_full_queue_answers_at_once(one):
    one.slots.goes_on.clear()
    with send(one, LONG):
        until(lambda: one.model.runner.running == 1)
        with send(one, {**LONG, "n": 2}):
            until(lambda: one.model.runner.waiting == 2)
            for stream in (False, True):
                # Nothing moves meanwhile.
                response = httpx.post(f"{one.url}/v1/completions", json={**LONG, "stream": stream})
                assert response.status_code == 429
                assert int(response.headers["retry-after"]) > 0
                assert response.json()["error"]["type"] == "rate_limit_error"
            assert one.metrics()["gpt2x_texts_waiting", NAME] == 2
    one.slots.goes_on.set()
    until(lambda: is_idle(one))


FAULTS = {
    "NaN": ([NAN_TOKEN], {}),
    "exception": ([RAISING_TOKEN], {}),
    "NaN later": ([5], {str(NAN_TOKEN): 100}),
    "exception later": ([5], {str(RAISING_TOKEN): 100}),
}


@pytest.mark.parametrize(("prompt", "bias"), FAULTS.values(), ids=FAULTS)
def test_a_text_that_fails_fails_alone(one, prompt, bias):
    with one.client() as client:
        alone = client.completions.create(model=NAME, **LONG).choices[0].text
        others = client.completions.create(model=NAME, stream=True, **LONG)
        text = next(others).choices[0].text
        failing = {"model": NAME, "prompt": prompt, "logit_bias": bias, "max_tokens": 5}
        with pytest.raises(openai.InternalServerError) as raised:
            client.completions.create(**failing)
        assert raised.value.type == "server_error"
        assert raised.value.response.headers["x-request-id"]
        with pytest.raises(openai.APIError) as raised:
            list(client.completions.create(stream=True, **failing))
        assert raised.value.type == "server_error"
        assert text + "".join(chunk.choices[0].text for chunk in others) == alone
        until(lambda: is_idle(one))
        metrics = one.metrics()
        assert metrics["gpt2x_texts_total", NAME, "error"] == 2
        assert metrics["gpt2x_texts_total", NAME, "length"] == 2
        # What the text has left behind is not another's.
        answer = client.completions.create(model=NAME, prompt="ROMEO.", max_tokens=3)
        assert answer.usage.completion_tokens == 3


def test_an_error_in_a_stream_is_its_last_event(one):
    body = {"prompt": [5], "logit_bias": {str(NAN_TOKEN): 100}, "stream": True, "logprobs": 0}
    answer = httpx.post(f"{one.url}/v1/completions", json=body)
    assert answer.status_code == 200
    events = [line for line in answer.text.splitlines() if line]
    assert all(event.startswith("data: ") for event in events)
    *chunks, error = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [chunk["object"] for chunk in chunks] == ["text_completion"]
    assert error["error"]["code"] == "internal_server_error"


def test_an_error_inside_the_server_says_nothing_of_it(one, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("a detail")

    monkeypatch.setattr("gpt2x.serve.embeddings.embed", fail)
    answer = httpx.post(f"{one.url}/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "detail" not in answer.text
    (record,) = caplog.records
    assert answer.headers["x-request-id"] in record.getMessage()
    assert one.metrics()["gpt2x_requests_total", "/v1/embeddings", "500"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_when_its_time_is_over(stream):
    with serving(served_model(), limits=Limits(max_time=0.02)) as server:
        server.slots.goes_on.clear()
        threading.Timer(0.1, server.slots.goes_on.set).start()
        with server.client() as client:
            answer = client.completions.create(model=NAME, stream=stream, **LONG)
            last = list(answer)[-1] if stream else answer
        assert last.choices[0].finish_reason == "length"
        assert server.metrics()["gpt2x_texts_total", NAME, "time"] == 1


@pytest.fixture
def held(monkeypatch):
    """What lets embeddings go on, which wait for it; others do not."""
    embed, goes_on = embeddings.embed, threading.Event()

    def slow(*args):
        goes_on.wait()
        return embed(*args)

    monkeypatch.setattr(embeddings, "embed", slow)
    yield goes_on
    goes_on.set()


def test_embeddings_leave_others_be(one, held):
    body, path = {"input": ["a", "b"]}, "/v1/embeddings"
    with send(one, body, path) as first, send(one, body, path) as second, one.client() as client:
        # As many wait as may.
        until(lambda: httpx.post(one.url + path, json=body).status_code == 429)
        answer = client.completions.create(model=NAME, prompt="ROMEO.", max_tokens=3)
        assert answer.usage.completion_tokens == 3
        held.set()
        for connection in (first, second):
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert httpx.post(one.url + path, json=body).status_code == 200


def test_a_text_whose_time_is_over_at_once_still_shows_its_prompt():
    with serving(limits=Limits(max_time=0.0)) as server:
        body = {"prompt": "ROMEO.", "echo": True}
        (choice,) = httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"]
        assert choice["text"] == "ROMEO."
        assert choice["finish_reason"] == "length"
