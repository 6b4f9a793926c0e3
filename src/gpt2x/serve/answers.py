"""Answers of the endpoints that write: whole, or as a stream of chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from msgspec import UNSET, Struct

from gpt2x.serve.pieces import TokenBytes
from gpt2x.serve.replies import (
    Alternative,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatMessage,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    Delta,
    FinishReason,
    PromptTokens,
    TokenLogprob,
    Usage,
)
from gpt2x.serve.requests import Job
from gpt2x.serve.writing import Piece, Writings


class Form(Protocol):
    """How an endpoint shows texts.

    Attributes:
        prefix: of the answers' ids.
        reply, chunk: the types of an answer, and of a part of a stream.
    """

    prefix: ClassVar[str]
    reply: ClassVar[type[Struct]]
    chunk: ClassVar[type[Struct]]

    def choice(
        self, index: int, text: str, pieces: Sequence[Piece], reason: FinishReason
    ) -> Struct:
        """Return what an answer says of a text, and why it ended."""

    def begin(self, index: int) -> Struct | None:
        """Return what the first chunk of a text says, if there is one before its first token."""

    def part(self, index: int, piece: Piece) -> Struct:
        """Return what a chunk says of a piece."""

    def end(self, index: int, reason: FinishReason) -> Struct:
        """Return what the last chunk of a text says."""


async def whole(
    job: Job, form: Form, head: Mapping[str, Any], writings: Writings, keep: int
) -> Struct:
    """Return the answer with all texts.

    Args:
        job: of the request.
        form: of the endpoint.
        head: see `new_head`.
        writings: the texts, those of a prompt behind one another.
        keep: of the texts of each prompt, how many are shown: the likeliest by token.
    """
    texts = await writings.collected()
    each = len(texts) // job.prompt_count
    choices: list[Struct] = []
    for start in range(0, len(texts), each):
        group = range(start, start + each)
        best = group if keep == each else sorted(group, key=lambda i: -_mean(texts[i][1]))[:keep]
        for number in best:
            reason = writings.texts[number].finish_reason
            choices.append(form.choice(len(choices), *texts[number], reason))
    return form.reply(**head, choices=choices, usage=usage(job, writings))


async def chunks(
    job: Job, form: Form, head: Mapping[str, Any], writings: Writings, has_usage: bool
) -> AsyncGenerator[Struct]:
    """Yield the chunks of texts as they are written; at the end their counts, if asked for."""

    def chunk(choice: Struct) -> Struct:
        return form.chunk(**head, choices=[choice], usage=None if has_usage else UNSET)

    for number in range(len(writings.texts)):
        if (first := form.begin(number)) is not None:
            yield chunk(first)
    async for number, piece in writings.pieces():
        if piece is None:
            yield chunk(form.end(number, writings.texts[number].finish_reason))
        elif piece.text or piece.probabilities is not None:
            yield chunk(form.part(number, piece))
    if has_usage:
        yield form.chunk(**head, choices=[], usage=usage(job, writings))


def new_head(form: Form, model: str) -> dict[str, Any]:
    """Return what answer and chunks of a request begin with."""
    return {
        "id": f"{form.prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
    }


def usage(job: Job, writings: Writings) -> Usage:
    """Return the counts of tokens: each prompt once, and all that was written."""
    texts = writings.texts
    firsts = [writing.text for writing in texts[:: len(texts) // job.prompt_count]]
    prompts = sum(len(text.prompt) for text in firsts)
    written = sum(writing.count for writing in texts)
    cached = sum(text.cached_tokens for text in firsts)
    return Usage(prompts, written, prompts + written, PromptTokens(cached))


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
    reply: ClassVar[type[Struct]] = Completion
    chunk: ClassVar[type[Struct]] = CompletionChunk

    def __init__(self, tokens: TokenBytes, logprobs: int | None) -> None:
        self._tokens, self._logprobs = tokens, logprobs

    def choice(
        self, index: int, text: str, pieces: Sequence[Piece], reason: FinishReason
    ) -> Struct:
        return CompletionChoice(index, text, self._told(pieces), reason)

    def begin(self, index: int) -> None:
        return None  # a text begins with its first token

    def part(self, index: int, piece: Piece) -> Struct:
        return CompletionChoice(index, piece.text, self._told([piece]), None)

    def end(self, index: int, reason: FinishReason) -> Struct:
        return CompletionChoice(index, "", self._told([]), reason)

    def _told(self, pieces: Sequence[Piece]) -> CompletionLogprobs | None:
        if self._logprobs is None:
            return None
        found = CompletionLogprobs([], [], [], [])
        for piece in pieces:
            if piece.token is None:
                continue
            told = piece.probabilities  # None of the first token of a prompt
            chosen = None if told is None else told.chosen
            likeliest = [] if told is None else told.likeliest[: self._logprobs]
            shown = {self._tokens.named(token): value for token, value in likeliest} or None
            found.tokens.append(self._tokens.named(piece.token))
            found.token_logprobs.append(chosen)
            found.top_logprobs.append(shown)
            found.text_offset.append(piece.offset)
        return found


class ChatForm:
    """Of /v1/chat/completions; the arguments are those of `CompletionForm`."""

    prefix: ClassVar[str] = "chatcmpl"
    reply: ClassVar[type[Struct]] = Chat
    chunk: ClassVar[type[Struct]] = ChatChunk

    def __init__(self, tokens: TokenBytes, logprobs: int | None) -> None:
        self._tokens, self._logprobs = tokens, logprobs

    def choice(
        self, index: int, text: str, pieces: Sequence[Piece], reason: FinishReason
    ) -> Struct:
        return ChatChoice(index, ChatMessage("assistant", text), self._told(pieces), reason)

    def begin(self, index: int) -> Struct:
        """Return the chunk that says who speaks."""
        return ChatChunkChoice(index, Delta("assistant", ""), None, None)

    def part(self, index: int, piece: Piece) -> Struct:
        return ChatChunkChoice(index, Delta(content=piece.text), self._told([piece]), None)

    def end(self, index: int, reason: FinishReason) -> Struct:
        return ChatChunkChoice(index, Delta(), None, reason)

    def _told(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if self._logprobs is None:
            return None
        content = []
        for piece in pieces:
            if piece.token is None or piece.probabilities is None:
                continue
            likeliest = piece.probabilities.likeliest[: self._logprobs]
            alternatives = [Alternative(*self._shown(*pair)) for pair in likeliest]
            shown = self._shown(piece.token, piece.probabilities.chosen)
            content.append(TokenLogprob(*shown, alternatives))
        return ChatLogprobs(content)

    def _shown(self, token: int, value: float) -> tuple[str, float, list[int]]:
        return self._tokens.shown(token), value, list(self._tokens.all_of(token))
