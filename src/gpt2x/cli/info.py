"""`gpt2x info`: what a checkpoint holds."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpt2x.cli import _options as options

app = typer.Typer(add_completion=False)


@app.command()
def info(
    source: options.Source,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    format: options.SourceFormat = None,
    n_head: options.Heads = None,
    revision: options.Revision = None,
    subfolder: options.Subfolder = "",
    token: options.Token = None,
) -> None:
    """Print format, config, tensors, parameter count, tokenizer, and what is missing or extra."""
    from gpt2x.checkpoint import describe, open_source

    where: dict[str, Any] = {"revision": revision, "subfolder": subfolder, "token": token}
    with open_source(source, format=format, n_head=n_head, **where) as opened:
        found = describe(opened)
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=False))
    else:
        _print(found)


def _printable(name: str) -> str:
    """A name of a file, with escapes for what a terminal would obey or cannot show."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False)
    table = Table(title=f"{found['format']}: {_printable(found['path'])}")
    for column in ("tensor", "shape", "dtype", "in the file"):
        table.add_column(column, overflow="fold")
    for tensor in found["tensors"]:
        shape = " x ".join(map(str, tensor["shape"]))
        names = [_printable(tensor[key]) for key in ("name", "source_name")]
        table.add_row(names[0], shape, tensor["dtype"], names[1])
    console.print(table)
    inferred = " (inferred from shapes)" if found["config_inferred"] else ""
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    config = ", ".join(f"{name} {found['config'][name]}" for name in sizes)
    console.print(f"config{inferred}: {config}")
    console.print(f"model: {found['architecture']}, {found['parameters']:,} parameters")
    console.print(f"tokenizer: {', '.join(found['tokenizer']) or 'none'}")
    for what in ("missing", "extra", "mismatched"):
        console.print(f"{what}: {', '.join(map(_printable, found[what])) or 'none'}")
    if found["ignored"]:
        reasons = Counter(found["ignored"].values())
        console.print("ignored: " + "; ".join(f"{n} x {why}" for why, n in reasons.items()))
