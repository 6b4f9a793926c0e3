"""The page at `/`, where a person writes together with the models that are served.

Its files lie beside this module and are sent as they are: HTML, CSS and plain ES modules, with no
build step and nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "worker")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # a link carries a text
    "Cache-Control": "no-cache",  # asked for again each time, sent if changed
    "Service-Worker-Allowed": "/",
}


def routes() -> list[Route]:
    """Return the routes of the page: `/`, its files under `/page/`, and the list of them."""
    files = {
        path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES
    }
    index = files.pop("index.html")

    async def listed(request: Request) -> Response:
        return JSONResponse(list(files), headers=_HEADERS)

    return [
        _route("/", "index.html", index),
        Route("/page/files.json", listed, methods=["GET"]),
        *(_route(f"/page/{name}", name, content) for name, content in files.items()),
    ]


def _route(path: str, name: str, content: bytes) -> Route:
    """Return the route of a file."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)

    return Route(path, send, methods=["GET"])
