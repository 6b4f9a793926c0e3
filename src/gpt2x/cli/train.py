"""`gpt2x train`: from scratch or from a model, in any framework.

The flags are the fields of each task's arguments; nothing of them is written here again.
"""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from gpt2x import backends
from gpt2x.cli._quiet import quiet_imports
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.tasks import TASKS, Kind

app = typer.Typer(add_completion=False, no_args_is_help=True)

_CONFIG_FILE = "config_file"


@app.callback()
def _train() -> None:
    """Train a model: from scratch, or from one that there is."""


class _Command(TyperCommand):
    """Takes flags as argparse does in transformers' scripts: also with _, several values, True."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_spelled(self.params, args)])


def _spelled(params: list[Any], args: list[str]) -> Iterator[str]:
    """Yield arguments as click reads them: ``--file a b`` is ``--file a --file b``."""
    options = {name: param for param in params for name in param.opts}
    several: str | None = None
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg.startswith("--"):
            name, equals, value = arg.partition("=")
            name = name.replace("_", "-")
            param = options.get(name)
            is_flag = param is not None and param.is_flag
            if is_flag and not equals and rest and rest[0].lower() in _BOOLEANS:
                equals, value = "=", rest.pop(0)
            if is_flag and equals:
                name = name if _BOOLEANS.get(value.lower()) else f"--no-{name[2:]}"
                equals = value = ""
            several = name if param is not None and param.multiple and not equals else None
            yield f"{name}{equals}{value}"
            if several is not None and rest:
                yield rest.pop(0)
        elif several is not None and (arg == "-" or not arg.startswith("-")):
            yield from (several, arg)
        else:
            yield arg


_BOOLEANS = {"true": True, "false": False}


def _flag(each: Field[Any], hint: Any) -> inspect.Parameter:
    """Return the option of an argument; None is passed on where it is not given."""
    name = each.name.replace("_", "-")
    names = [f"--{name}/--no-{name}"] if hint is bool else [f"--{name}"]
    shown: bool | str = False
    if each.default is not MISSING and each.default not in (None, (), False, True):
        shown = f"{each.default}"
    option = typer.Option(
        *names,
        help=each.metadata["help"],
        rich_help_panel=each.metadata["panel"],
        show_default=shown,
    )
    return inspect.Parameter(
        each.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[hint | None, option],
    )


def _command(task: str, kind: Kind) -> Callable[..., None]:
    """Return the command of a task."""

    def command(**flags: Any) -> None:
        _run(task, kind.arguments, flags)

    hints = typing.get_type_hints(kind.arguments)
    config = inspect.Parameter(
        _CONFIG_FILE,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None,
            typer.Option("--config-file", help="YAML or JSON with these flags; the line counts."),
        ],
    )
    parameters = [config, *(_flag(each, hints[each.name]) for each in fields(kind.arguments))]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = kind.help
    return command


for _name, _kind in TASKS.items():
    app.command(_name, cls=_Command)(_command(_name, _kind))


def _line(flags: Mapping[str, Any]) -> Iterator[str]:
    """Yield the arguments of a command line that gives these flags."""
    for name, value in flags.items():
        spelled = name.replace("_", "-")
        if value in (None, []):
            continue
        if isinstance(value, bool):
            yield f"--{spelled}" if value else f"--no-{spelled}"
        else:
            shown = "..." if name == "hub_token" else value
            yield from (f"--{spelled}", *map(str, shown if isinstance(shown, list) else [shown]))


def _run(task: str, arguments: type[TrainingArguments], flags: dict[str, Any]) -> None:
    """Train with the values of the config file and of the flags."""
    from gpt2x.cli._training import Display
    from gpt2x.train import train

    path = flags.pop(_CONFIG_FILE)
    values = {} if path is None else arguments.read(path)
    # A list that is not given is empty.
    values |= {name: value for name, value in flags.items() if value not in (None, [])}
    console = Console(stderr=True, highlight=False, markup=False)
    display = Display(console)
    with quiet_imports():
        backends.load(values.get("backend") or backends.default(), "gpt2x train", "training")
    try:
        results = train(task, reporter=display, **values)
    except (KeyboardInterrupt, SystemExit):
        if display.checkpoint is not None:
            given = {_CONFIG_FILE: path, **flags, "overwrite_output_dir": None, "resume": True}
            if values.get("overwrite_output_dir") and not flags["overwrite_output_dir"]:
                given["overwrite_output_dir"] = False  # the config file's
            line = shlex.join(["gpt2x", "train", task, *_line(given)])
            console.print(f"Stopped; {display.checkpoint} is whole. Go on: {line}", soft_wrap=True)
        raise
    if not display.has_begun:  # another process reports
        return
    for name, value in results.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        console.print(f"{name.replace('_', ' '):<20} {shown:>16}")
    console.print(f"Wrote the model to {values['output_dir']}", soft_wrap=True)
