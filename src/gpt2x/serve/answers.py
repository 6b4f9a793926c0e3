"""Answers of the endpoints that write: whole, or as a stream of chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from gpt2x.serve.pieces import TokenBytes
from gpt2x.serve.requests import Job
from gpt2x.serve.writing import Piece, Writing, collected, merged

Json = dict[str, Any]


class Form(Protocol):
    """How an endpoint shows texts.

    Attributes:
        prefix: of the answers' ids.
        whole, part: the `object` of an answer, and of a chunk.
    """

    prefix: ClassVar[str]
    whole: ClassVar[str]
    part: ClassVar[str]

    def choice(self, text: str, pieces: Sequence[Piece]) -> Json:
        """Return what an answer says of a text."""

    def begin(self) -> Json | None:
        """Return what the first chunk of a text says, if there is one before its first token."""

    def delta(self, piece: Piece | None) -> Json:
        """Return what a chunk says of a piece; None for the chunk that ends a text."""


async def whole(
    job: Job, form: Form, head: Mapping[str, Any], writings: Sequence[Writing], keep: int
) -> Json:
    """Return the answer with all texts.

    Args:
        job: of the request.
        form: of the endpoint.
        head: see `new_head`.
        writings: the texts, those of a prompt behind one another.
        keep: of the texts of each prompt, how many are shown: the likeliest by token.
    """
    try:
        texts = [await collected(writing) for writing in writings]
    finally:
        cancel(writings)
    each = len(writings) // job.prompt_count
    choices: list[Json] = []
    for start in range(0, len(writings), each):
        group = range(start, start + each)
        best = group if keep == each else sorted(group, key=lambda i: -_mean(texts[i][1]))[:keep]
        for number in best:
            shown = form.choice(*texts[number])
            reason = writings[number].finish_reason
            choices.append({"index": len(choices), **shown, "finish_reason": reason})
    return {**head, "object": form.whole, "choices": choices, "usage": usage(job, writings)}


async def chunks(
    job: Job, form: Form, head: Mapping[str, Any], writings: Sequence[Writing], has_usage: bool
) -> AsyncIterator[Json]:
    """Yield the chunks of texts as they are written; at the end their counts, if asked for."""

    def chunk(number: int, says: Json, reason: str | None = None) -> Json:
        choice = {"index": number, **says, "finish_reason": reason}
        more = {"usage": None} if has_usage else {}
        return {**head, "object": form.part, "choices": [choice], **more}

    try:
        for number in range(len(writings)):
            if (says := form.begin()) is not None:
                yield chunk(number, says)
        async for number, piece in merged(writings):
            if piece is None:
                yield chunk(number, form.delta(None), writings[number].finish_reason)
            elif piece.text or piece.probabilities is not None:
                yield chunk(number, form.delta(piece))
        if has_usage:
            yield {**head, "object": form.part, "choices": [], "usage": usage(job, writings)}
    finally:
        cancel(writings)


def cancel(writings: Sequence[Writing]) -> None:
    """Let texts end that nobody waits for any more."""
    for writing in writings:
        writing.cancel()


def new_head(form: Form, model: str) -> Json:
    """Return what answer and chunks of a request begin with."""
    return {
        "id": f"{form.prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
    }


def usage(job: Job, writings: Sequence[Writing]) -> Json:
    """Return the counts of tokens: each prompt once, and all that was written."""
    each = len(writings) // job.prompt_count
    firsts = [writing.text for writing in writings[::each]]
    prompts = sum(len(text.prompt) for text in firsts)
    written = sum(writing.count for writing in writings)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": written,
        "total_tokens": prompts + written,
        "prompt_tokens_details": {"cached_tokens": sum(text.cached_tokens for text in firsts)},
    }


def _mean(pieces: Sequence[Piece]) -> float:
    """Return the mean logarithm of the tokens' probabilities."""
    found = [piece.probabilities.chosen for piece in pieces if piece.probabilities is not None]
    return sum(found) / max(1, len(found))


class CompletionForm:
    """Of /v1/completions.

    Args:
        tokens: the tokenizer's.
        logprobs: how many of the likeliest tokens are told; None for no probabilities.
    """

    prefix: ClassVar[str] = "cmpl"
    whole: ClassVar[str] = "text_completion"
    part: ClassVar[str] = "text_completion"

    def __init__(self, tokens: TokenBytes, logprobs: int | None) -> None:
        self._tokens, self._logprobs = tokens, logprobs

    def choice(self, text: str, pieces: Sequence[Piece]) -> Json:
        """Return what an answer says of a text."""
        return {"text": text, "logprobs": self._told(pieces)}

    def begin(self) -> None:
        """Return None: a text begins with its first token."""

    def delta(self, piece: Piece | None) -> Json:
        """Return what a chunk says of a piece."""
        return self.choice("" if piece is None else piece.text, [] if piece is None else [piece])

    def _told(self, pieces: Sequence[Piece]) -> Json | None:
        if self._logprobs is None:
            return None
        found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece in pieces:
            if piece.token is None:
                continue
            told = piece.probabilities  # None of the first token of a prompt
            chosen = None if told is None else told.chosen
            likeliest = [] if told is None else told.likeliest[: self._logprobs]
            shown = {self._tokens.shown(token): value for token, value in likeliest} or None
            found["tokens"].append(self._tokens.shown(piece.token))
            found["token_logprobs"].append(chosen)
            found["top_logprobs"].append(shown)
            found["text_offset"].append(piece.offset)
        return found


class ChatForm:
    """Of /v1/chat/completions; the arguments are those of `CompletionForm`."""

    prefix: ClassVar[str] = "chatcmpl"
    whole: ClassVar[str] = "chat.completion"
    part: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, tokens: TokenBytes, logprobs: int | None) -> None:
        self._tokens, self._logprobs = tokens, logprobs

    def choice(self, text: str, pieces: Sequence[Piece]) -> Json:
        """Return what an answer says of a text."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._told(pieces)}

    def begin(self) -> Json:
        """Return the chunk that says who speaks."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, piece: Piece | None) -> Json:
        """Return what a chunk says of a piece."""
        if piece is None:
            return {"delta": {}, "logprobs": None}
        return {"delta": {"content": piece.text}, "logprobs": self._told([piece])}

    def _told(self, pieces: Sequence[Piece]) -> Json | None:
        if self._logprobs is None:
            return None
        content = []
        for piece in pieces:
            if piece.token is None or piece.probabilities is None:
                continue
            likeliest = piece.probabilities.likeliest[: self._logprobs]
            alternatives = [self._one(token, value) for token, value in likeliest]
            told = self._one(piece.token, piece.probabilities.chosen)
            content.append({**told, "top_logprobs": alternatives})
        return {"content": content, "refusal": None}

    def _one(self, token: int, value: float) -> Json:
        shown = self._tokens.shown(token)
        return {"token": shown, "logprob": value, "bytes": list(self._tokens.all_of(token))}
