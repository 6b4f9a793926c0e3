"""The process that serves: it listens, says so, and ends in order."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from gpt2x.errors import InvalidInputError
from gpt2x.serve.models import Models

_ADVICE = {
    errno.EADDRINUSE: "the port is taken; choose another with --port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
    errno.EACCES: "this user may not listen there; ports from 1024 on are for everybody",
}


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises InvalidInputError if nothing can listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address[:2], family=family, backlog=2048)
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidInputError(f"The host {host!r} is not known: {error}.") from error
    except OSError as error:
        reason = _ADVICE.get(error.errno or 0, str(error))
        raise InvalidInputError(f"Cannot listen on {url(host, port)}: {reason}.") from error
    found.setblocking(False)
    return found


def url(host: str, port: int) -> str:
    """Return the address of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A server that says when it answers, and ends in order.

    SIGTERM and SIGINT let the requests end that there are, while further ones are answered by 503.
    A second signal ends the process at once, as does one that comes before requests are answered.

    Args:
        app: the application.
        models: what it serves; the default one is loaded before requests are answered.
        grace: seconds that requests have to end.
        ready: called when requests are answered.
        told: what can be read of it, or its end, is like a first signal; None for nothing.
    """

    def __init__(
        self,
        app: Starlette,
        models: Models,
        grace: float,
        ready: Callable[[], None],
        told: Connection | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # a line for each request is for a proxy
                timeout_graceful_shutdown=1,  # for what has been written but not yet sent
                server_header=False,
            )
        )
        self._app, self._models, self._grace, self._ready = app, models, grace, ready
        self._told = told
        self._until: float | None = None  # when what runs has to end

    def stop(self) -> None:
        """Take no more requests, and end when those end that there are."""
        if self._until is None:
            self._app.state.is_stopping = True
            self._until = time.monotonic() + self._grace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the default model and begin to answer; raises what loading raises."""
        await self._models.prepare()
        await super().startup(sockets)
        if not self.started:
            return
        if self._told is not None:
            asyncio.get_running_loop().add_reader(self._told.fileno(), self._hear)
        self._ready()

    def _hear(self) -> None:
        assert self._told is not None, "it is read"
        asyncio.get_running_loop().remove_reader(self._told.fileno())
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to end."""
        is_over = await super().on_tick(counter)
        if self._until is None:
            return is_over
        return is_over or not self.server_state.tasks or time.monotonic() >= self._until

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is still written, and close all connections."""
        await self._models.stop(0.0)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal that ends the server."""
        if self._until is not None or not self.started:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.stop()
