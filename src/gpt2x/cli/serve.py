"""`gpt2x serve`: a server with OpenAI's API."""

from __future__ import annotations

import ipaddress
import warnings
from typing import Annotated

import typer

from gpt2x import backends
from gpt2x.cli import _options as options
from gpt2x.cli._writer import check_model_options
from gpt2x.errors import InvalidInputError

app = typer.Typer(add_completion=False)


@app.command(name="serve")
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A folder, a .gguf file, or a name on the hub; NAME=MODEL serves it as NAME. "
            "Several may be given; the first is the default.",
            show_default="the embedded model",
        ),
    ] = None,
    backend: options.Backend = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that requests must bring; several may be given.",
            envvar="GPT2X_API_KEY",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes behind the port, each with a batch of its own. Those of PyTorch share "
            "their weights.",
            min=1,
        ),
    ] = 1,
    max_batch: Annotated[int, typer.Option(help="Texts written at once.", min=1)] = 16,
    max_queue: Annotated[int, typer.Option(help="Texts that may wait.", min=1)] = 64,
    max_time: Annotated[
        float, typer.Option(help="Seconds that a text may take.", min=0.001)
    ] = 120.0,
    max_models: Annotated[
        int | None,
        typer.Option(help="Models that stay loaded.", min=1, show_default="all"),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(help="Seconds that requests have to end after SIGTERM or Ctrl-C.", min=0),
    ] = 10.0,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of a page elsewhere that may use the server (CORS)."),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Log each request to write, prompt and all.")
    ] = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    revision: options.Revision = None,
) -> None:
    """Serve models by OpenAI's API."""
    for library in ("starlette", "uvicorn", "sse_starlette", "msgspec", "prometheus_client"):
        backends.require_library(library, "gpt2x serve", extra="serve")
    from gpt2x.cli._serving import Settings, serve_alone, serve_with_workers
    from gpt2x.serve.server import listen, url

    backend = backend or backends.default()
    backends.get(backend)
    check_model_options(backend, dtype, device)
    settings = Settings(
        models=_named(model or []),
        backend=backend,
        dtype=dtype,
        device=device,
        hub={"revision": revision} if revision else {},
        max_batch=max_batch,
        max_queue=max_queue,
        max_time=max_time,
        max_models=max_models,
        keys=tuple(api_key or ()),
        origins=tuple(allow_origin or ()),
        grace=grace,
        log_prompts=log_prompts,
    )
    if not all(key.strip() for key in settings.keys):
        raise InvalidInputError("--api-key is empty; give a key, or none at all.")
    if not (api_key or _is_loopback(host)):
        warnings.warn(
            f"{host} can be reached from other machines, and no --api-key is asked for.",
            UserWarning,
        )
    with listen(host, port) as listening:
        where = url(host, listening.getsockname()[1])

        def ready() -> None:
            typer.echo(f"Serving {', '.join(settings.models)} on {where}")

        if workers == 1:
            serve_alone(settings, listening, ready)
        else:
            serve_with_workers(settings, listening, workers, ready)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(models: list[str]) -> dict[str, str]:
    """Return the models by their names; a folder's is its last part."""
    from gpt2x import EMBEDDED_MODEL

    found = {}
    for given in models or [str(EMBEDDED_MODEL)]:
        name, has_name, source = given.partition("=")
        if not has_name:
            name, source = given.rstrip("/").rpartition("/")[2], given
        if name in found:
            raise InvalidInputError(f"Two models are called {name!r}; give NAME=MODEL.")
        found[name] = source
    return found
