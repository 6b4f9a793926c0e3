"""The operations of the server, and the document that describes them.

The application makes its routes of `OPERATIONS`, and the document is made of them and of the types
of their bodies and answers, so that it says what is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from gpt2x import __version__
from gpt2x.serve import messages, replies

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What can be asked for.

    Attributes:
        name: of the method that answers.
        method, path: of the request; a path has its parameter in braces.
        summary: what it does.
        body: type of the request's body, if it has one.
        reply: type of the answer; None if it is plain text.
        chunk: type of the parts of a stream, if it can be one.
        is_open: whether it needs no key, and is answered while the server stops.
        statuses: of further answers, each an error.
        unready: type of the answer 503, if it is not an error.
    """

    name: str
    method: str
    path: str
    summary: str
    body: type | None = None
    reply: type | None = None
    chunk: type | None = None
    is_open: bool = False
    statuses: tuple[int, ...] = ()
    unready: type | None = None

    @property
    def errors(self) -> list[int]:
        """The statuses of all errors that it can answer."""
        found = [*self.statuses, 500]
        if self.body is not None:
            found += [400, 404, 413, 422]
        if not self.is_open:
            found += [401, 503]
        return sorted(found)


def _post(path: str, name: str, summary: str, body: type, reply: type, **more: Any) -> Operation:
    return Operation(
        name=name, method="POST", path=path, summary=summary, body=body, reply=reply, **more
    )


def _get(path: str, name: str, summary: str, reply: type | None, **more: Any) -> Operation:
    return Operation(name=name, method="GET", path=path, summary=summary, reply=reply, **more)


def _health(path: str, name: str, summary: str, **more: Any) -> Operation:
    return _get(path, name, summary, replies.Health, is_open=True, **more)


OPERATIONS = (
    _get("/v1/models", "models", "List the models.", replies.ModelCards),
    _get("/v1/models/{name}", "model", "Show a model.", replies.ModelCard, statuses=(404,)),
    _post(
        "/v1/completions",
        "completions",
        "Continue prompts.",
        messages.CompletionRequest,
        replies.Completion,
        chunk=replies.CompletionChunk,
        statuses=(429,),
    ),
    _post(
        "/v1/chat/completions",
        "chat",
        "Answer in a conversation.",
        messages.ChatRequest,
        replies.Chat,
        chunk=replies.ChatChunk,
        statuses=(429,),
    ),
    _post(
        "/v1/embeddings",
        "embeddings",
        "Return the mean of the last hidden states of texts.",
        messages.EmbeddingRequest,
        replies.Embeddings,
        statuses=(429,),
    ),
    _post(
        "/tokenize",
        "tokenize",
        "Return the tokens of a text.",
        messages.TokenizeRequest,
        replies.Tokens,
    ),
    _post(
        "/detokenize",
        "detokenize",
        "Return the text of tokens.",
        messages.DetokenizeRequest,
        replies.Detokenized,
    ),
    _get("/metrics", "metrics", "Return Prometheus's metrics.", None),
    _health("/health", "health", "Whether requests are answered.", unready=replies.Health),
    _health("/health/ready", "health", "The same.", unready=replies.Health),
    _health("/health/live", "alive", "Whether the process lives."),
)


def document(operations: Iterable[Operation] = OPERATIONS) -> Json:
    """Return the description of operations, in OpenAPI 3.1."""
    operations = list(operations)
    kinds: set[Any] = {replies.ErrorReply}
    for each in operations:
        kinds.update(kind for kind in (each.body, each.reply, each.chunk) if kind is not None)
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Json] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpt2x",
            "version": __version__,
            "description": "GPT-2 by OpenAI's API. Every answer has the header x-request-id.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> Json:
    responses = {"200": _success(operation)}
    for status in operation.errors:
        responses[str(status)] = _response("An error", replies.ErrorReply)
    if operation.unready is not None:
        responses["503"] = _response("Not ready", operation.unready)
    found: Json = {
        "operationId": operation.path.strip("/").replace("/", "_").replace("{name}", "name"),
        "summary": operation.summary,
        "responses": responses,
        # A server may ask for no key.
        "security": [] if operation.is_open else [{"key": []}, {}],
    }
    if "{name}" in operation.path:
        found["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _json(operation.body)}
    return found


def _success(operation: Operation) -> Json:
    if operation.reply is None:
        content: Json = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": "OK", "content": content}
    found = _response("OK", operation.reply)
    if operation.chunk is not None:
        says = (
            f"If stream is true: server-sent events, whose data is a {operation.chunk.__name__}, "
            "and at the end [DONE]; after an error an ErrorReply and no more."
        )
        found["content"]["text/event-stream"] = {"schema": {"type": "string", "description": says}}
    return found


def _response(description: str, kind: type) -> Json:
    return {"description": description, "content": _json(kind)}


def _json(kind: type) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
