"""A server in a thread of the test, over the embedded model with slots that can be told to fail."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from gpt2x import EMBEDDED_MODEL, GPT2LMHeadModel, GPT2TokenizerFast, backends
from gpt2x.batching.batch import Batch
from gpt2x.batching.runner import Runner
from gpt2x.pt.slots import Slots
from gpt2x.serve.app import make_app
from gpt2x.serve.beams import Searches
from gpt2x.serve.models import Models, ServedModel

#: Tokens that `FaultySlots` stumbles over: bytes that no text has.
NAN_TOKEN, RAISING_TOKEN = 186, 187

NAME = "bard"


@cache
def tokenizer() -> GPT2TokenizerFast:
    """Return the tokenizer of the embedded model."""
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@cache
def model() -> Any:
    """Return the embedded model."""
    return GPT2LMHeadModel.from_pretrained(EMBEDDED_MODEL).eval()


class Gate:
    """Lets steps pass: all at first, none after `clear`, all after `set`, some after `allow`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = math.inf

    def wait(self) -> None:
        """Wait until a step may pass."""
        with self._changed:
            self._changed.wait_for(lambda: self._left > 0)
            self._left -= 1

    def allow(self, count: float) -> None:
        """Let so many more steps pass."""
        with self._changed:
            self._left = count
            self._changed.notify_all()

    def clear(self) -> None:
        """Let none pass."""
        self.allow(0)

    def set(self) -> None:
        """Let all pass."""
        self.allow(math.inf)


class FaultySlots(Slots):
    """Slots that can be stopped, and that stumble over two tokens.

    Attributes:
        goes_on: what steps wait for.
    """

    def __init__(self, model: Any, rows: int) -> None:
        super().__init__(model, rows)
        self.goes_on = Gate()

    def prefill(self, row: int, tokens: np.ndarray, start: int, every: bool = False) -> Any:
        self.goes_on.wait()
        if RAISING_TOKEN in tokens:
            raise RuntimeError("out of memory")
        logits = super().prefill(row, tokens, start, every)
        return logits * np.nan if NAN_TOKEN in tokens else logits

    def decode(self, tokens: np.ndarray, starts: np.ndarray) -> Any:
        self.goes_on.wait()
        if RAISING_TOKEN in tokens:
            raise RuntimeError("out of memory")
        logits = super().decode(tokens, starts)
        logits[: len(tokens)][tokens == NAN_TOKEN] = np.nan
        return logits


def served_model(name: str = NAME, rows: int = 4, max_queue: int = 16) -> ServedModel:
    """Return the embedded model, ready to write with `FaultySlots`, which are `slots` of it."""
    slots = FaultySlots(model(), rows)
    inference = backends.load("pt", module="inference")
    served = ServedModel(
        name=name,
        model=model(),
        tokenizer=tokenizer(),
        runner=Runner(Batch(slots), max_queue),
        searcher=Runner(Searches(model(), tokenizer(), inference), max_queue),
        columns=slots.columns,
        vocab_size=slots.vocab_size,
        inference=inference,
    )
    served.slots = slots  # type: ignore[attr-defined]
    return served


class Server:
    """What serves.

    Attributes:
        url: where.
        model: its default one.
        app: the application.
    """

    def __init__(self, url: str, model: ServedModel, app: Any) -> None:
        self.url, self.model, self.app = url, model, app

    @property
    def slots(self) -> FaultySlots:
        """The rows of the default model."""
        return self.model.slots  # type: ignore[attr-defined, no-any-return]

    def client(self, key: str = "none") -> Any:
        """Return OpenAI's client, which does not try again."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return the values of /metrics by name and the values of the labels."""
        import httpx

        text = httpx.get(f"{self.url}/metrics").raise_for_status().text
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def serving(served: ServedModel | None = None, **options: Any) -> Iterator[Server]:
    """Serve a model on a free port of the loopback; the options are those of `make_app`."""
    served = served or served_model()
    app = make_app(Models({served.name: lambda: served}), **options)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            until(lambda: server.started)
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", served, app)
        finally:
            served.slots.goes_on.set()  # type: ignore[attr-defined]
            server.should_exit = True
            thread.join()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the limit of a test ends what never does."""
    while not holds():
        time.sleep(0.005)
