"""The process that serves: it listens, says so, and ends in order."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises OSError if the address is not free, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=2048)
    found.setblocking(False)
    return found


class Server(uvicorn.Server):
    """A server that says when it answers, and when it is asked to end.

    Args:
        app: the application.
        grace: seconds that requests have to end after SIGTERM or SIGINT.
        ready: called when requests are answered.
        stopping: called when the server is asked to end.
    """

    def __init__(
        self,
        app: Starlette,
        grace: float,
        ready: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # a line for each request is for a proxy
                timeout_graceful_shutdown=max(1, round(grace)),
                server_header=False,
            )
        )
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> Any:
        """Take a signal that ends the server; a second one ends it at once."""
        self._stopping()
        super().handle_exit(sig, frame)
