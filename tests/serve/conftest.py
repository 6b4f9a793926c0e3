"""The tests of the server; left out where its packages are not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

_NEEDED = ("torch", "starlette", "uvicorn", "sse_starlette", "msgspec", "prometheus_client")

collect_ignore_glob = [] if all(map(find_spec, _NEEDED)) else ["*test_*.py"]


@pytest.fixture(scope="session")
def server():
    """A server of the embedded model that asks for no key."""
    from support.serving import serving

    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def client(server):
    """OpenAI's client of that server."""
    pytest.importorskip("openai")
    with server.client() as client:
        yield client
