"""GET /metrics, read by Prometheus's own parser."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.serving import NAME, served_model, serving, until


@pytest.fixture
def server():
    """A server that nobody has asked for anything yet."""
    with serving(served_model(rows=1)) as server:
        yield server


def test_tokens_texts_and_times_are_counted(server):
    tokens = list(range(100, 150))
    with server.client() as client:
        for _ in range(2):
            client.completions.create(model=NAME, prompt=tokens, max_tokens=5, n=2)
    metrics = server.metrics()
    told = {name.removeprefix("gpt2x_"): value for (name, *_), value in metrics.items()}
    assert told["prompt_tokens_total"] == 4 * 50
    assert told["cached_tokens_total"] == 3 * 49
    assert told["written_tokens_total"] == 4 * 5
    assert metrics["gpt2x_texts_total", NAME, "length"] == 4
    # Each text has one first token, and others behind it.
    assert told["time_to_first_token_seconds_count"] == 4
    assert told["time_between_tokens_seconds_count"] == 4 * 4
    assert told["time_between_tokens_seconds_sum"] > 0
    assert metrics["gpt2x_time_to_first_token_seconds_bucket", "+Inf", NAME] == 4
    assert metrics["gpt2x_requests_total", "/v1/completions", "200"] == 2
    httpx.get(f"{server.url}/v1/nothing")
    assert server.metrics()["gpt2x_requests_total", "other", "404"] == 1


def test_queue_and_batch_are_shown(server):

    body = {"prompt": "ROMEO.", "max_tokens": 2}
    server.slots.goes_on.clear()
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(httpx.post, f"{server.url}/v1/completions", json=body)]
        until(lambda: server.metrics()["gpt2x_texts_running", NAME] == 1)
        asked += [
            pool.submit(httpx.post, f"{server.url}/v1/completions", json=body) for _ in range(3)
        ]
        until(lambda: server.metrics()["gpt2x_texts_waiting", NAME] == 3)
        assert server.metrics()["gpt2x_texts_running", NAME] == 1
        server.slots.goes_on.set()
        assert {each.result().status_code for each in asked} == {200}
    until(lambda: server.metrics()["gpt2x_texts_running", NAME] == 0)
    assert server.metrics()["gpt2x_texts_waiting", NAME] == 0
