"""What Prometheus reads of a server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gpt2x.batching.batch import Text
from gpt2x.serve.models import Models, ServedModel

#: The type of the text that `Metrics.render` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds; a small model writes a token in 1 ms, and a queue may take a minute.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


#: The variable that makes prometheus_client keep metrics in files of this folder.
SHARED = "PROMETHEUS_MULTIPROC_DIR"

_REFRESH = 1.0  # seconds between the looks of a worker at its own models


class Metrics:
    """The metrics of a process, in a registry of their own.

    Where the variable `SHARED` names a folder, they are those of all processes that share it.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        labels: dict[str, Any] = {"labelnames": ["model"], "registry": registry}
        summed = {**labels, "multiprocess_mode": "livesum"}
        self._running = Gauge("gpt2x_texts_running", "Texts in the batch.", **summed)
        self._waiting = Gauge("gpt2x_texts_waiting", "Texts in the queue.", **summed)
        self._seen: set[str] = set()
        self._is_shared = SHARED in os.environ
        self._prompt = Counter("gpt2x_prompt_tokens", "Tokens of prompts.", **labels)
        self._cached = Counter("gpt2x_cached_tokens", "Those that were not run again.", **labels)
        self._written = Counter("gpt2x_written_tokens", "Tokens that were written.", **labels)
        self._texts = Counter(
            "gpt2x_texts", "Texts that ended.", ["model", "reason"], registry=registry
        )
        self._first = Histogram(
            "gpt2x_time_to_first_token_seconds",
            "From a request to the first token of a text.",
            buckets=_BUCKETS,
            **labels,
        )
        self._between = Histogram(
            "gpt2x_time_between_tokens_seconds", "Between tokens.", buckets=_BUCKETS, **labels
        )
        self._requests = Counter(
            "gpt2x_requests", "Requests.", ["path", "status"], registry=registry
        )

    def watch(self, model: str) -> Watch:
        """Return what a text of a model reports to."""
        return Watch(self, model)

    def answered(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()

    def render(self, models: Iterable[ServedModel]) -> bytes:
        """Return all metrics in Prometheus's text format."""
        self._look(models)
        if not self._is_shared:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)

    async def keep_current(self, models: Models) -> None:
        """Let other processes know, for ever, how much this one writes."""
        while self._is_shared:
            self._look(models.loaded)
            await asyncio.sleep(_REFRESH)

    def _look(self, models: Iterable[ServedModel]) -> None:
        """Count the texts of each model now."""
        counts = dict.fromkeys(self._seen, (0, 0))
        if not self._is_shared:  # files keep the labels of models that are not loaded any more
            counts = {}
            self._running.clear()
            self._waiting.clear()
        counts |= {model.name: (model.running, model.waiting) for model in models}
        for name, (running, waiting) in counts.items():
            self._running.labels(name).set(running)
            self._waiting.labels(name).set(waiting)
        self._seen |= counts.keys()


class Watch:
    """Measures one text."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._last, self._is_first = time.perf_counter(), True

    def token(self) -> None:
        """A token has come."""
        now = time.perf_counter()
        found = self._metrics._first if self._is_first else self._metrics._between
        found.labels(self._model).observe(now - self._last)
        self._last, self._is_first = now, False

    def end(self, text: Text) -> None:
        """The text has ended."""
        metrics, model = self._metrics, self._model
        metrics._texts.labels(model, text.reason or "").inc()
        metrics._prompt.labels(model).inc(len(text.prompt))
        metrics._cached.labels(model).inc(text.cached_tokens)
        metrics._written.labels(model).inc(len(text.new))
