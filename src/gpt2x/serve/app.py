"""The HTTP application: OpenAI's endpoints, and gpt2x's own.

Answers and errors have the shapes of OpenAI's API. A client that goes away ends its texts.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt2x.serve import answers, embeddings, requests
from gpt2x.serve.answers import ChatForm, CompletionForm, Form
from gpt2x.serve.failures import RequestError, of_validation
from gpt2x.serve.messages import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Sampling,
    TokenizeRequest,
)
from gpt2x.serve.metrics import CONTENT_TYPE, Metrics
from gpt2x.serve.models import Models
from gpt2x.serve.requests import Job
from gpt2x.serve.writing import start

Body = TypeVar("Body")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may take.

    Attributes:
        max_time: seconds that a text is written at most; None for no limit.
        max_body: bytes of a request's body.
    """

    max_time: float | None = 120.0
    max_body: int = 4 * 2**20


def make_app(
    models: Models,
    *,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    allowed_origins: Sequence[str] = (),
    grace: float = 0.0,
) -> Starlette:
    """Return the application.

    Args:
        models: what is served.
        keys: one of which a request has to bring as a bearer token; none asks for nothing.
        limits: of requests.
        allowed_origins: of pages elsewhere that may use it (CORS); none by default.
        grace: seconds that texts have to end when it stops.
    """
    limits = limits or Limits()
    metrics = Metrics()
    api = _Api(models, limits, metrics)
    guard = partial(_guarded, keys=[key.encode() for key in keys])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await models.get(None)  # the default is ready when requests are answered
        api.is_ready = True
        yield
        api.is_ready = False
        await models.stop(grace)

    routes = [
        Route("/v1/models", guard(api.models), methods=["GET"]),
        Route("/v1/models/{name:path}", guard(api.model), methods=["GET"]),
        Route("/v1/completions", guard(api.completions), methods=["POST"]),
        Route("/v1/chat/completions", guard(api.chat), methods=["POST"]),
        Route("/v1/embeddings", guard(api.embeddings), methods=["POST"]),
        Route("/tokenize", guard(api.tokenize), methods=["POST"]),
        Route("/detokenize", guard(api.detokenize), methods=["POST"]),
        Route("/metrics", guard(api.metrics), methods=["GET"]),
        Route("/health", api.health, methods=["GET"]),
    ]
    middleware = [Middleware(_Counted, metrics=metrics)]
    if allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(allowed_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"],
            )
        )
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            RequestError: _failed,
            HTTPException: _http_failed,
            Exception: _crashed,
        },
        lifespan=lifespan,
        max_body_size=limits.max_body,
    )


class _Api:
    """The endpoints."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self._models = models
        self._limits = limits
        self._metrics = metrics
        self.is_ready = False

    async def models(self, request: Request) -> Response:
        loaded = {model.name: model.created for model in self._models.loaded}
        data = [_shown(name, loaded.get(name, 0)) for name in self._models.names]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._models.names:
            raise RequestError(404, f"The model {name!r} is not served.", "model")
        created = {model.name: model.created for model in self._models.loaded}.get(name, 0)
        return JSONResponse(_shown(name, created))

    async def completions(self, request: Request) -> Response:
        body = await _body(request, CompletionRequest)
        model = await self._models.get(body.model)
        job = requests.completion(model, body, self._deadline())
        form = CompletionForm(model.tokens, body.logprobs)
        return await self._write(request, body, job, form, keep=body.n or 1)

    async def chat(self, request: Request) -> Response:
        body = await _body(request, ChatRequest)
        model = await self._models.get(body.model)
        job = requests.conversation(model, body, self._deadline())
        form = ChatForm(model.tokens, (body.top_logprobs or 0) if body.logprobs else None)
        return await self._write(request, body, job, form, keep=body.n or 1)

    async def embeddings(self, request: Request) -> Response:
        body = await _body(request, EmbeddingRequest)
        model = await self._models.get(body.model)
        texts = embeddings.texts_of(model, body)
        vectors = [await asyncio.to_thread(embeddings.embed, model, tokens) for tokens in texts]
        form = body.encoding_format or "float"
        return JSONResponse(embeddings.answer(model, texts, vectors, form))

    async def tokenize(self, request: Request) -> Response:
        body = await _body(request, TokenizeRequest)
        model = await self._models.get(body.model)
        tokens = model.encode(body.text)
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": model.columns}
        )

    async def detokenize(self, request: Request) -> Response:
        body = await _body(request, DetokenizeRequest)
        model = await self._models.get(body.model)
        requests.check_tokens(model, body.tokens, "tokens")
        text = b"".join(map(model.tokens.all_of, body.tokens)).decode("utf-8", "replace")
        return JSONResponse({"text": text})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(self._models.loaded), media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        state = "ready" if self.is_ready else "starting"
        return JSONResponse({"status": state}, 200 if self.is_ready else 503)

    def _deadline(self) -> float | None:
        seconds = self._limits.max_time
        return None if seconds is None else time.monotonic() + seconds

    async def _write(
        self, request: Request, body: Sampling, job: Job, form: Form, keep: int
    ) -> Response:
        """Answer with the texts of a job: whole, or as they are written."""
        head = answers.new_head(form, job.model.name)
        # What is refused is refused before a stream begins.
        writings = start(job.model, job.texts, self._metrics)
        if not body.stream:
            answer = answers.whole(job, form, head, writings, keep)
            return JSONResponse(await _while_connected(request, answer))
        has_usage = body.stream_options is not None and body.stream_options.include_usage
        return EventSourceResponse(_events(answers.chunks(job, form, head, writings, has_usage)))


def _shown(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "gpt2x"}


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yield the data of server-sent events; an error is the last one of a stream."""
    try:
        async for chunk in chunks:
            yield json.dumps(chunk, ensure_ascii=False)
        yield "[DONE]"
    except RequestError as error:
        yield json.dumps(error.body)


async def _body(request: Request, kind: type[Body]) -> Body:
    """Return the body of a request.

    Raises RequestError if it is not JSON, or not of this kind.
    """
    data = await request.body()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise of_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from error


async def _while_connected(request: Request, answer: Awaitable[Any]) -> Any:
    """Return an answer; give it up if the client goes away."""
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise RequestError(499, "The client has gone.")
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Counted:
    """Counts the requests of each endpoint."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")  # only of endpoints that there are
                path = "other" if route is None else route.path
                self._metrics.answered(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint, keys: Sequence[bytes]) -> Endpoint:
    """Return an endpoint that asks for one of the keys, if there are some."""

    async def guarded(request: Request) -> Response:
        if getattr(request.app.state, "is_stopping", False):
            raise RequestError(503, "The server is stopping.", headers={"Retry-After": "5"})
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        # All are compared, in constant time.
        if keys and not sum(hmac.compare_digest(given, key) for key in keys):
            raise RequestError(
                401, "Send an API key: Authorization: Bearer KEY.", headers=_AUTHENTICATE
            )
        return await endpoint(request)

    return guarded


_AUTHENTICATE = {"WWW-Authenticate": "Bearer"}


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body, error.status, error.headers)


async def _http_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
    return JSONResponse(body.body, error.status_code, error.headers)


async def _crashed(request: Request, error: Exception) -> Response:
    return JSONResponse(RequestError(500, "An error inside the server.").body, 500)
