"""Texts of requests, as their handlers see them: pieces that arrive while they are written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from gpt2x.batching.batch import Text
from gpt2x.batching.choice import LogProbabilities
from gpt2x.batching.options import TextOptions
from gpt2x.batching.runner import BusyError, StoppingError
from gpt2x.errors import InvalidInputError
from gpt2x.generation.plan import eos_tokens
from gpt2x.serve.beams import Search
from gpt2x.serve.failures import RequestError
from gpt2x.serve.metrics import Metrics, Watch
from gpt2x.serve.models import ServedModel
from gpt2x.serve.pieces import Pieces
from gpt2x.serve.replies import FinishReason

_LOG = logging.getLogger("gpt2x.serve")

#: See `Text.allowed`.
Allowed = Callable[[Sequence[int]], np.ndarray]


class Wanted(NamedTuple):
    """A text that a request asks for.

    Attributes:
        prompt: its tokens.
        options: how it is continued.
        allowed: what says which tokens may follow; None for all.
        stop: strings that end it.
        deadline: when it ends in any case, as in `Text`.
        echo: whether it is shown with its prompt.
        has_new: whether new tokens are shown; without them a single one is written.
        search: arguments of the beam search that finds it, with all texts of its prompt that are
            behind it; None if it is drawn.
    """

    prompt: list[int]
    options: TextOptions
    allowed: Allowed | None = None
    stop: Sequence[str] = ()
    deadline: float | None = None
    echo: bool = False
    has_new: bool = True
    search: Mapping[str, Any] | None = None


class Piece(NamedTuple):
    """What a token, or the end of a text, adds to it.

    Attributes:
        text: the text that is final now.
        token: the token; None at the end.
        probabilities: what the request asked to be told of it.
        offset: characters of the text before the token.
    """

    text: str
    token: int | None = None
    probabilities: LogProbabilities | None = None
    offset: int = 0


class Writing:
    """A text that is written for a request.

    Args:
        model: that writes.
        wanted: what is asked for.
        watch: measures it.
        send: takes its pieces, and None at its end; called in the runner's thread.

    Attributes:
        text: the text as the batch sees it.
        wanted: what was asked for.
        search: what finds it; None if it is drawn.
    """

    search: Search | None = None

    def __init__(
        self,
        model: ServedModel,
        wanted: Wanted,
        watch: Watch,
        send: Callable[[Piece | None], None],
    ) -> None:
        self.wanted, self._watch = wanted, watch
        self._model, self._send = model, send
        self._prompt = Pieces(model.tokens, shows_special=True) if wanted.echo else None
        self._has_sent_prompt = False
        self._new = Pieces(model.tokens, wanted.stop)
        self._ends = frozenset(eos_tokens(model.model.generation_config))
        self.text = Text(
            prompt=wanted.prompt,
            options=wanted.options,
            receive=self._receive,
            ended=self._ended,
            allowed=wanted.allowed,
            deadline=wanted.deadline,
        )

    def check(self) -> None:
        """Raise RequestError for a text that has ended before it was written.

        It could not be continued (500, and the log says why), its grammar could not (400), or the
        server stops (503).
        """
        if self.text.reason == "cancelled":
            raise _stopping("The server stopped before the text was written.")
        if self.text.reason != "error":
            return
        if isinstance(self.text.error, InvalidInputError):
            raise RequestError(400, f"The text could not be written: {self.text.error}")
        _LOG.error("A text could not be written.", exc_info=self.text.error)
        raise RequestError(500, "The text could not be written; the server's log says why.")

    def cancel(self) -> None:
        """Let the text end, since nobody waits for it any more."""
        if self.text.reason is not None:
            return
        if self.search is None:
            self._model.runner.cancel(self.text)
        else:
            self._model.searcher.cancel(self.search)

    @property
    def finish_reason(self) -> FinishReason:
        """Why the text ended, in OpenAI's words."""
        return "stop" if self.text.reason == "stop" and self.wanted.has_new else "length"

    @property
    def count(self) -> int:
        """New tokens."""
        return len(self.text.new) if self.wanted.has_new else 0

    # ---- in the runner's thread ---------------------------------------------------------------

    def _receive(self, token: int, probabilities: LogProbabilities | None) -> bool:
        if self.search is None:  # the tokens of a search come at once
            self._watch.token()
        self._send_prompt()
        if not self.wanted.has_new:
            return False
        offset = self._new.read + (0 if self._prompt is None else self._prompt.length)
        self._send(Piece(self._new.add(token), token, probabilities, offset))
        return token not in self._ends and not self._new.is_stopped

    def _send_prompt(self) -> None:
        """Send the prompt, once, if it is to be shown."""
        pieces = self._prompt
        if pieces is None or self._has_sent_prompt:
            return
        self._has_sent_prompt = True
        told = [None, *self.text.prompt_probabilities]
        told += [None] * (len(self.text.prompt) - len(told))
        for token, probabilities in zip(self.text.prompt, told, strict=True):
            offset = pieces.read
            self._send(Piece(pieces.add(token), token, probabilities, offset))
        self._send(Piece(pieces.end()))

    def _ended(self) -> None:
        self._watch.end(self.text)
        self._send_prompt()
        self._send(Piece(self._new.end()))
        self._send(None)


class Writings:
    """The texts of a request, all of which are written or none; to be iterated over once.

    Args:
        model: that writes.
        texts: what is asked for.
        metrics: of the server.

    Attributes:
        texts: the texts, in the same order.

    Raises:
        RequestError: if the queue is full (429), or the server stops (503).
    """

    def __init__(self, model: ServedModel, texts: Sequence[Wanted], metrics: Metrics) -> None:
        self._events: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.texts = [
            Writing(model, wanted, metrics.watch(model.name), partial(self._send, number))
            for number, wanted in enumerate(texts)
        ]
        try:
            if texts[0].search is None:
                model.runner.submit([writing.text for writing in self.texts])
            else:
                model.searcher.submit(_searches(self.texts))
        except BusyError as error:
            raise RequestError(429, str(error), headers={"Retry-After": "1"}) from error
        except StoppingError as error:
            raise _stopping(str(error)) from error

    def _send(self, number: int, piece: Piece | None) -> None:
        """Take a piece of a text, in the runner's thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, (number, piece))

    async def pieces(self) -> AsyncIterator[tuple[int, Piece | None]]:
        """Yield the number of a text with its next piece, or None at its end, as they come.

        Raises what `Writing.check` does.
        """
        left = len(self.texts)
        while left:
            number, piece = await self._events.get()
            if piece is None:
                self.texts[number].check()
                left -= 1
            yield number, piece

    async def collected(self) -> list[tuple[str, list[Piece]]]:
        """Return of each text the whole of it, and the pieces that have tokens."""
        found: list[list[Piece]] = [[] for _ in self.texts]
        async for number, piece in self.pieces():
            if piece is not None:
                found[number].append(piece)
        return [
            ("".join(each.text for each in pieces), [p for p in pieces if p.token is not None])
            for pieces in found
        ]

    def cancel(self) -> None:
        """Let the texts end, since nobody waits for them any more."""
        for writing in self.texts:
            writing.cancel()


def _searches(writings: Sequence[Writing]) -> list[Search]:
    """Return the searches that find these texts."""
    found = []
    for _, each in groupby(writings, key=lambda writing: id(writing.wanted.search)):
        group = list(each)
        wanted = group[0].wanted
        assert wanted.search is not None, "all texts of a request are searched for"
        search = Search(
            prompt=wanted.prompt,
            options=wanted.options,
            receive=lambda *_: True,
            deadline=wanted.deadline,
            arguments=wanted.search,
            found=[writing.text for writing in group],
        )
        for writing in group:
            writing.search = search
        found.append(search)
    return found


def _stopping(message: str) -> RequestError:
    return RequestError(503, message, headers={"Retry-After": "5"})
