"""`gpt2x convert`: any checkpoint into any format."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gpt2x import backends
from gpt2x.cli import _options as options
from gpt2x.cli._quiet import quiet_imports

if TYPE_CHECKING:
    from gpt2x.checkpoint.conversion import Conversion

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    source: options.Source,
    destination: Annotated[
        Path, typer.Argument(help="Folder to write, or a .gguf, .pt or .keras file.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="safetensors, pytorch, flax-msgpack, flax-safetensors, nanogpt, gguf, keras-tf or "
            "orbax.",
            show_default="as the destination is called, or safetensors",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16, bfloat16, or for gguf q8_0; else as it is."),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            help="Largest file, as 5GB or 200MiB.",
            show_default="5GB, or none where a format is one file",
        ),
    ] = None,
    merge_adapter: Annotated[
        str | None,
        typer.Option(help="Add a LoRA adapter to the weights: a folder, or a name on the hub."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the result back and compare every tensor.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow a destination that exists.")
    ] = False,
    format: options.SourceFormat = None,
    n_head: options.Heads = None,
    revision: options.Revision = None,
    subfolder: options.Subfolder = "",
    token: options.Token = None,
) -> None:
    """Write a model in another format, with its config and tokenizer."""
    from gpt2x.checkpoint import convert as convert_checkpoint
    from gpt2x.checkpoint import open_adapter, open_source

    console = Console(markup=False, highlight=False)
    write = partial(
        convert_checkpoint,
        destination=destination,
        to=to,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )
    where: dict[str, Any] = {"revision": revision, "subfolder": subfolder, "token": token}
    where |= {"format": format, "n_head": n_head, "adapter": merge_adapter}
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source, **where))
        if merge_adapter is not None:
            adapter = open_adapter(merge_adapter, opened.config, opened.head, token=token)
            write = partial(write, merge_adapter=stack.enter_context(adapter))
        plan = write(opened, dry_run=True)
        if dry_run:
            _print_plan(console, plan)
            return
        if plan.target == "keras-tf":
            with quiet_imports():
                backends.load("tf", wanted_by="gpt2x convert --to keras-tf")
        total = plan.nbytes
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task(f"{plan.source} -> {plan.target}", total=total)
            made = write(opened, verify=verify, progress=lambda nbytes: bar.advance(task, nbytes))
        console.print(f"Wrote {len(made.tensors)} tensors to {destination}")
        if made.difference is not None:
            largest, name = made.difference
            where_text = f" in {name}" if name else ""
            console.print(f"Largest difference: {largest:.3g}{where_text}")


def _print_plan(console: Console, plan: Conversion) -> None:
    table = Table(title=f"{plan.source} -> {plan.target}: {plan.destination}")
    for column in ("tensor", "shape", "dtype"):
        table.add_column(column, overflow="fold")
    for name, tensor in plan.tensors.items():
        table.add_row(name, " x ".join(map(str, tensor.shape)), plan.stored[name])
    console.print(table)
    parameters = sum(tensor.size for tensor in plan.tensors.values())
    size = f"{parameters:,} parameters, {plan.nbytes / 1e6:,.1f} MB"
    console.print(f"model: {plan.head.architecture}, {size}")
    files = plan.files if len(plan.files) <= 3 else [*plan.files[:1], "...", *plan.files[-2:]]
    console.print(f"files: {', '.join(files)}")
    console.print(f"tokenizer: {', '.join(plan.tokenizer) or 'none'}")
