"""The HTTP application: OpenAI's endpoints, and gpt2x's own.

Answers and errors have the shapes of OpenAI's API. A client that goes away ends its texts.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gpt2x.errors import InvalidInputError
from gpt2x.serve import answers, embeddings, page, requests
from gpt2x.serve.answers import ChatForm, CompletionForm, Form
from gpt2x.serve.failures import RequestError, of_decoding
from gpt2x.serve.messages import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Sampling,
    TokenizeRequest,
)
from gpt2x.serve.metrics import CONTENT_TYPE, Metrics
from gpt2x.serve.middleware import Observed, crash, encoded, reply_to
from gpt2x.serve.models import Models, ServedModel
from gpt2x.serve.openapi import OPERATIONS, document
from gpt2x.serve.replies import Detokenized, Health, ModelCard, ModelCards, Tokens
from gpt2x.serve.requests import Job
from gpt2x.serve.writing import Writings

_LOG = logging.getLogger("gpt2x.serve")

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
    log_prompts: bool = False,
) -> Starlette:
    """Return the application.

    Args:
        models: what is served.
        keys: one of which a request has to bring as a bearer token; none asks for nothing.
        limits: of requests.
        allowed_origins: of pages elsewhere that may use it (CORS); none by default.
        log_prompts: whether the bodies of requests to write are logged, a line each, by the logger
            "gpt2x.serve"; otherwise nothing of them is.

    Raises:
        InvalidInputError: for an empty key, which whoever brings none would have.
    """
    if not all(key.strip() for key in keys):
        raise InvalidInputError("An API key is empty; give one that is not, or none at all.")
    logging.getLogger("sse_starlette").setLevel(logging.INFO)  # below, it logs what it sends
    limits = limits or Limits()
    metrics = Metrics()
    api = _Api(models, limits, metrics, log_prompts)
    allowed = [key.encode() for key in keys]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await models.get(None)  # the default is ready when requests are answered
        api.app = app
        looking = asyncio.create_task(metrics.keep_current(models))
        yield
        looking.cancel()
        api.app = None
        await models.stop(0.0)  # of a `Server` they have ended by now

    routes = [*page.routes(), Route("/openapi.json", api.openapi, methods=["GET"])]
    for each in OPERATIONS:
        endpoint = getattr(api, each.name)
        path = each.path.replace("{name}", "{name:path}")
        guarded = endpoint if each.is_open else _guarded(endpoint, allowed)
        routes.append(Route(path, guarded, methods=[each.method]))
    middleware = [Middleware(Observed, metrics=metrics)]
    if allowed_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients send headers of their own
            expose_headers=["x-request-id", "retry-after"],
        )
        middleware.insert(0, cors)  # around answers of `Observed` too
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            RequestError: _failed,
            InvalidInputError: _refused,
            HTTPException: _http_failed,
        },
        lifespan=lifespan,
    )


class _Api:
    """The endpoints."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics, log_prompts: bool) -> None:
        self._models = models
        self._limits = limits
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._embedder = embeddings.Embedder()
        self._document = msgspec.json.encode(document())
        self.app: Starlette | None = None  # while it answers

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def models(self, request: Request) -> Response:
        return encoded(ModelCards([self._card(name) for name in self._models.names]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._models.names:
            message = f"The model {name!r} is not served."
            raise RequestError(404, message, "model", code="model_not_found")
        return encoded(self._card(name))

    def _card(self, name: str) -> ModelCard:
        loaded = {model.name: model.created for model in self._models.loaded}
        return ModelCard(name, loaded.get(name, 0))

    async def completions(self, request: Request) -> Response:
        body = await self._body(request, CompletionRequest)
        async with self._models.using(body.model) as model:
            job = await asyncio.to_thread(requests.completion, model, body, self._deadline())
            form = CompletionForm(model.tokens, body.logprobs)
            return await self._write(request, body, job, form, keep=body.n or 1)

    async def chat(self, request: Request) -> Response:
        body = await self._body(request, ChatRequest)
        async with self._models.using(body.model) as model:
            job = await asyncio.to_thread(requests.conversation, model, body, self._deadline())
            form = ChatForm(model.tokens, (body.top_logprobs or 0) if body.logprobs else None)
            return await self._write(request, body, job, form, keep=body.n or 1)

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request, EmbeddingRequest)
        async with self._models.using(body.model) as model:
            texts = await asyncio.to_thread(embeddings.texts_of, model, body)
            answer = self._embedder.answer(model, texts, body.encoding_format)
            return await _while_connected(request, answer)

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, TokenizeRequest)
        async with self._models.using(body.model) as model:
            return await asyncio.to_thread(_tokenized, model, body)

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, DetokenizeRequest)
        async with self._models.using(body.model) as model:
            return await asyncio.to_thread(_detokenized, model, body)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(self._models.loaded), media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        health = self._health()
        return encoded(health, 200 if health.ready else 503)

    async def alive(self, request: Request) -> Response:
        return encoded(self._health())

    def _health(self) -> Health:
        if self.app is None:
            return Health("starting", live=True, ready=False)
        if is_stopping(self.app):
            return Health("stopping", live=True, ready=False)
        return Health("ready", live=True, ready=True)

    def _deadline(self) -> float | None:
        seconds = self._limits.max_time
        return None if seconds is None else time.monotonic() + seconds

    async def _write(
        self, request: Request, body: Sampling, job: Job, form: Form, keep: int
    ) -> Response:
        """Answer with the texts of a job: whole, or as they are written."""
        if self._log_prompts:
            line = msgspec.json.encode(body).decode()
            _LOG.info("%s %s %s", request.state.request_id, request.url.path, line)
        head = answers.new_head(form, job.model.name)
        # What is refused is refused before a stream begins.
        writings = Writings(job.model, job.texts, self._metrics)
        if body.stream:
            has_usage = body.stream_options is not None and body.stream_options.include_usage
            return _Stream(writings, answers.chunks(job, form, head, writings, has_usage))
        try:
            answer = answers.whole(job, form, head, writings, keep)
            return await _while_connected(request, answer)
        finally:
            writings.cancel()

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        """Return the body of a request.

        Raises RequestError if it is too large (413), not JSON (422), or not of this kind (400).
        """
        most = self._limits.max_body
        too_large = RequestError(
            413, f"A body may have {most} bytes.", headers={"Connection": "close"}
        )
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise too_large
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise of_decoding(error) from error


# Of a large body these take a while, and so are run in a thread.


def _tokenized(model: ServedModel, body: TokenizeRequest) -> Response:
    found = model.tokenizer(
        body.text,
        add_special_tokens=body.add_special_tokens,
        return_offsets_mapping=True,
        verbose=False,
    )
    tokens, spans = found["input_ids"], [list(pair) for pair in found["offset_mapping"]]
    return encoded(Tokens(tokens, len(tokens), model.columns, spans))


def _detokenized(model: ServedModel, body: DetokenizeRequest) -> Response:
    requests.check_tokens(model, body.tokens, "tokens")
    text = b"".join(map(model.tokens.all_of, body.tokens)).decode("utf-8", "replace")
    return encoded(Detokenized(text))


class _Stream(EventSourceResponse):
    """Chunks as server-sent events; texts that are still written when it ends are given up."""

    def __init__(self, writings: Writings, chunks: AsyncGenerator[msgspec.Struct]) -> None:
        super().__init__(_events(chunks), sep="\n")
        self._writings = writings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._writings.cancel()


async def _events(chunks: AsyncGenerator[msgspec.Struct]) -> AsyncIterator[bytes]:
    """Yield server-sent events; an error is the last one of a stream."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield _event(chunk)
            yield b"data: [DONE]\n\n"
        except RequestError as error:
            yield _event(error.body)
        except Exception:
            _LOG.exception("a stream failed")
            yield _event(crash().body)


def _event(data: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def _while_connected(request: Request, answer: Awaitable[Any]) -> Response:
    """Return the response with an answer; give it up if the client goes away."""
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        # Nobody reads what is answered to a client that has gone.
        return encoded(await task) if task.done() else Response(status_code=499)
    finally:
        gone.cancel()
        task.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_stopping(app: Starlette) -> bool:
    """Whether an application has been told that it is to end."""
    return bool(getattr(app.state, "is_stopping", False))


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint, keys: Sequence[bytes]) -> Endpoint:
    """Return an endpoint that asks for one of the keys, if there are some."""

    async def guarded(request: Request) -> Response:
        if is_stopping(request.app):
            raise RequestError(503, "The server is stopping.", headers={"Retry-After": "5"})
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given.encode("latin-1") if scheme.lower() == "bearer" else b""
        # All are compared, in constant time.
        if keys and not sum(hmac.compare_digest(token, key) for key in keys):
            message = "Send an API key: Authorization: Bearer KEY."
            raise RequestError(401, message, code="invalid_api_key", headers=_AUTHENTICATE)
        return await endpoint(request)

    return guarded


_AUTHENTICATE = {"WWW-Authenticate": "Bearer"}


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return reply_to(error)


async def _refused(request: Request, error: Exception) -> Response:
    return reply_to(RequestError(400, str(error)))


async def _http_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}."
    headers = dict(error.headers or {})
    return reply_to(RequestError(error.status_code, message, headers=headers))
