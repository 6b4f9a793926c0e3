"""The command line, `gpt2x`.

Each module of this package whose name has no leading underscore is a command of that name, and
holds `app = typer.Typer(add_completion=False)`, with one command in it, or with several for
subcommands. Such a module imports no framework when it is itself imported, so that `gpt2x --help`
is quick; it raises `gpt2x.errors`, and this module prints them.
"""

from __future__ import annotations

import io
import logging
import pkgutil
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from gpt2x import __version__
from gpt2x.errors import (
    CheckpointError,
    DataError,
    InvalidInputError,
    MissingBackendError,
    TrainingError,
    WeightsError,
)

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# What a user can act on; the message says it all. OSError covers files and the network.
_EXPECTED = (
    InvalidInputError,
    DataError,
    CheckpointError,
    WeightsError,
    TrainingError,
    MissingBackendError,
    OSError,
)
# typer's own exceptions, for usage errors and for leaving early, are for typer to handle.
_TYPER = ("typer", "click")


class _Commands(TyperGroup):
    """Finds commands among the modules of this package, and words what goes wrong in them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(import_module(f"{__name__}.{cmd_name}").app)
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # --debug is understood after the command too, where one adds it to a line that failed.
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["debug"] = "--debug" in args[:end]
        return super().parse_args(ctx, [a for a in args[:end] if a != "--debug"] + args[end:])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # `gpt2x generate | head`: typer ends it quietly
            raise
        except Exception as error:
            if ctx.meta["debug"] or type(error).__module__.startswith(_TYPER):
                raise
            tell(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpt2x {__version__}")
        raise typer.Exit


@app.callback()
def _gpt2x(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Anywhere on the line.")
    ] = False,
) -> None:
    """GPT-2 in PyTorch, TensorFlow and Flax."""
    set_up_messages()


def set_up_messages() -> None:
    """Let warnings and logs of this process be lines of standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal has every character
            stream.reconfigure(errors="replace")
    warnings.showwarning = lambda message, *_, **__: _say("warning", message)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    logging.getLogger("huggingface_hub").propagate = False  # it prints its own


def tell(error: Exception) -> None:
    """Print an error as one line to standard error."""
    if isinstance(error, _EXPECTED):
        _say("error", error)
    else:
        _say("error", f"{type(error).__name__}: {error} (--debug shows where)")


def _say(kind: str, message: object) -> None:
    """Print one line to standard error."""
    style = {"error": "bold red", "warning": "yellow"}[kind]
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"{kind}:", style=style, end=" ")
    console.print(" ".join(str(message).split()), markup=False)


def main() -> None:
    """Run the command line; the console script `gpt2x` calls this."""
    app(prog_name="gpt2x")
