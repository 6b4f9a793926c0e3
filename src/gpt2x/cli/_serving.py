"""What `gpt2x serve` runs, in its own process or in workers."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from gpt2x.cli import set_up_messages, tell
from gpt2x.cli._writer import load_model
from gpt2x.serve.app import Limits, make_app
from gpt2x.serve.metrics import SHARED
from gpt2x.serve.models import Models, load_served
from gpt2x.serve.server import Server
from gpt2x.serve.workers import StartError, Workers


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the command.

    Attributes:
        models: where each is, by name.
        hub: arguments of loading from the hub.
        shared: a folder for what processes share; None for one alone.
    """

    models: Mapping[str, str]
    backend: str
    dtype: str | None
    device: str | None
    hub: Mapping[str, Any]
    max_batch: int
    max_queue: int
    max_time: float
    max_models: int | None
    keys: Sequence[str]
    origins: Sequence[str]
    grace: float
    log_prompts: bool
    shared: Path | None = None


def serve_alone(
    settings: Settings,
    listening: socket.socket,
    ready: Callable[[], None],
    told: Connection | None = None,
) -> None:
    """Serve in this process; the other arguments are those of `Server`."""
    if settings.log_prompts:
        logging.getLogger("gpt2x.serve").setLevel(logging.INFO)
    loaders = {
        name: partial(_load, settings, name, source) for name, source in settings.models.items()
    }
    models = Models(loaders, settings.max_models)
    application = make_app(
        models,
        keys=settings.keys,
        limits=Limits(max_time=settings.max_time),
        allowed_origins=settings.origins,
        log_prompts=settings.log_prompts,
    )
    Server(application, models, settings.grace, ready, told).run([listening])


def serve_with_workers(
    settings: Settings, listening: socket.socket, count: int, ready: Callable[[], None]
) -> None:
    """Serve in several processes, which share metrics and weights in a folder."""
    with TemporaryDirectory(prefix="gpt2x-serve-") as folder:
        os.environ[SHARED] = folder
        try:
            settings = replace(settings, shared=Path(folder))
            Workers(partial(_work, settings), listening, count, ready).run()
        except StartError:
            raise typer.Exit(1) from None
        finally:
            del os.environ[SHARED]


def _work(settings: Settings, listening: socket.socket, parent: Connection) -> None:
    set_up_messages()
    try:
        serve_alone(settings, listening, partial(parent.send, "ready"), parent)
    except Exception as error:
        tell(error)
        sys.exit(1)


def _load(settings: Settings, name: str, source: str) -> Any:
    backend, hub = settings.backend, dict(settings.hub)
    load = partial(
        load_model,
        source,
        backend,
        settings.dtype,
        settings.device,
        hub,
        wanted_by="gpt2x serve",
    )
    shared = settings.shared
    if shared is not None:
        shared = shared / f"model-{list(settings.models).index(name)}"
        shared.mkdir(exist_ok=True)
    limits = settings.max_batch, settings.max_queue
    return load_served(name, source, hub, backend, load, *limits, shared)
