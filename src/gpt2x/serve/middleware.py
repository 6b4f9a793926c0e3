"""What surrounds all endpoints: an id for each request, the counts, and the last resort."""

from __future__ import annotations

import logging
import secrets
from collections.abc import MutableMapping
from typing import Any

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt2x.serve.failures import RequestError
from gpt2x.serve.metrics import Metrics

_LOG = logging.getLogger("gpt2x.serve")


class Observed:
    """Gives each request an id, counts it, and answers 500 where an endpoint fails.

    Args:
        app: what is surrounded.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        has_begun = False

        async def observed(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
                route = scope.get("route")  # only of endpoints that there are
                path = "other" if route is None else route.path
                self._metrics.answered(path, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except ClientDisconnect:
            pass  # while its body was read
        except Exception:
            _LOG.exception("%s: an error inside the server", request_id)
            if not has_begun:
                await reply_to(crash())(scope, receive, observed)


def crash() -> RequestError:
    """Return the error of what went wrong inside the server; the log says more."""
    return RequestError(500, "An error inside the server.")


def reply_to(error: RequestError) -> Response:
    """Return the response that tells of an error."""
    return encoded(error.body, error.status, error.headers)


def encoded(
    answer: Any, status: int = 200, headers: MutableMapping[str, str] | None = None
) -> Response:
    """Return the response with an answer as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, "application/json")
