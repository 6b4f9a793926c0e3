"""The server of the process, in a thread: what it does when it is told to end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from gpt2x.serve.app import make_app
from gpt2x.serve.models import Models
from gpt2x.serve.server import Server, listen, url
from support.serving import served_model, until

BODY = {"prompt": "And the king", "max_tokens": 3, "seed": 1}


@contextmanager
def serving(grace: float):
    """Serve; yield the server, its model, a client, and the thread."""
    model = served_model()
    models, ready = Models({model.name: lambda: model}), threading.Event()
    server = Server(make_app(models), models, grace, ready.set)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        ready.wait()
        base = url(*listening.getsockname())
        try:
            with httpx.Client(base_url=base, timeout=None) as client:
                yield server, model, client, thread
        finally:
            model.slots.goes_on.set()
            server.stop()
            thread.join()


def test_what_runs_ends_while_more_is_refused():
    with serving(grace=1000) as (server, model, client, thread), ThreadPoolExecutor() as pool:
        model.slots.goes_on.clear()
        answer = pool.submit(client.post, "/v1/completions", json=BODY)
        stream = pool.submit(client.post, "/v1/completions", json={**BODY, "stream": True})
        until(lambda: model.running + model.waiting == 2)
        server.stop()
        refused = client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert not answer.done()
        model.slots.goes_on.set()
        assert answer.result().json()["usage"]["completion_tokens"] == 3
        assert stream.result().text.rstrip().endswith("data: [DONE]")
        thread.join()


def test_an_ipv6_address_stands_in_brackets():
    assert url("::1", 80) == "http://[::1]:80"
    with pytest.raises(Exception, match="not known"):
        listen("no.such.host.invalid", 0)
