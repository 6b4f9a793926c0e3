"""`gpt2x eval`: how well a model predicts texts."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer
from rich.console import Console

from gpt2x import backends
from gpt2x.cli import _options as options
from gpt2x.cli._files import reading_bar, report_skipped
from gpt2x.cli._writer import load_model
from gpt2x.errors import check_choice

app = typer.Typer(add_completion=False)

PERPLEXITY, LAST_WORD, MULTIPLE_CHOICE = TASKS = ("perplexity", "last-word", "multiple-choice")


@app.command(name="eval")
def evaluate(
    files: options.Files,
    task: Annotated[
        str,
        typer.Option(
            help="perplexity: of texts. last-word: how often the last word of a text is known "
            "(LAMBADA). multiple-choice: how often the right ending is the likeliest (HellaSwag)."
        ),
    ] = PERPLEXITY,
    model: options.Model = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    revision: options.Revision = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="perplexity: tokens from each window of a long text to the next.",
            show_default="half of the window",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="perplexity: tokens that the model sees at once.", show_default="as many as it can"
        ),
    ] = None,
    from_eos: Annotated[
        bool,
        typer.Option(
            "--from-eos/--no-from-eos",
            help="perplexity: read each document after <|endoftext|>, and score its first token.",
        ),
    ] = True,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows that the model reads at once.", show_default="4,096 tokens"),
    ] = None,
    text_column: options.TextColumn = "text",
    context_column: Annotated[
        str, typer.Option(help="multiple-choice: the column of the context.")
    ] = "ctx",
    choices_column: Annotated[
        str, typer.Option(help="multiple-choice: the column of the endings.")
    ] = "endings",
    label_column: Annotated[
        str, typer.Option(help="multiple-choice: the column of the right ending's number, from 0.")
    ] = "label",
    file_format: options.FileFormat = None,
    skip_bad_records: options.SkipBadRecords = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model: perplexity and bits per byte of texts, last words, or multiple choice."""
    from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast, evaluation
    from gpt2x.corpus import read_documents, read_records

    check_choice("--task", task, TASKS)
    backend = backend or backends.default()
    skipped: list[Exception] = []
    reading: dict[str, Any] = {
        "file_format": file_format,
        "on_bad": skipped.append if skip_bad_records else None,
    }
    where = {"revision": revision} if revision else {}
    with reading_bar(files) as advance:
        reading["progress"] = advance
        if task == PERPLEXITY:
            texts = read_documents(files, text_column=text_column, **reading)
        else:
            records = read_records(files, **reading)
        folder = model or str(EMBEDDED_MODEL)
        loaded = load_model(folder, backend, dtype, device, where, wanted_by="gpt2x eval")
        tokenizer = GPT2TokenizerFast.from_pretrained(folder, **where)
        call: dict[str, Any] = {"batch_size": batch_size}
        if task == PERPLEXITY:
            call |= {"stride": stride, "window": window, "from_eos": from_eos}
            found = evaluation.perplexity(loaded, tokenizer, texts, **call)
        elif task == LAST_WORD:
            call |= {"text_column": text_column, "on_bad": reading["on_bad"]}
            found = evaluation.last_word(loaded, tokenizer, records, **call)
        else:
            call |= {"on_bad": reading["on_bad"], "context_column": context_column}
            call |= {"choices_column": choices_column, "label_column": label_column}
            found = evaluation.multiple_choice(loaded, tokenizer, records, **call)
    report_skipped(skipped)
    about = {"task": task, "model": model or "embedded", "backend": backend}
    if as_json:
        # JSON has no infinity.
        finite = {name: value if math.isfinite(value) else None for name, value in found.items()}
        typer.echo(json.dumps(about | finite))
    else:
        _print(found)


def _print(found: dict[str, float]) -> None:
    console = Console(highlight=False, markup=False)
    for name, value in found.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        console.print(f"{name.replace('_', ' '):<20} {shown:>14}")
