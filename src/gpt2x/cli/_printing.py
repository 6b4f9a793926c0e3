"""Texts as they are written: on standard output, with the progress of batches on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from gpt2x.cli._writer import Continuation, Writer


@dataclass
class Result:
    """A text that was written.

    Attributes:
        prompt: what it continues.
        number: of the prompt.
        row: of the texts of this prompt.
        text: its tokens.
    """

    prompt: str
    number: int
    row: int
    text: Continuation


def results(writer: Writer, prompts: list[str], batch_size: int | None) -> Iterator[Result]:
    """Yield the texts of all prompts in order, as soon as a batch of prompts is done.

    With a batch size, a terminal at standard error shows how many prompts are done. The bar is
    there only while the model runs, so that it never stands among the texts.
    """
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), "prompts", TimeRemainingColumn())
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        disable=batch_size is None or not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("", total=len(prompts))
    for start in range(0, len(prompts), batch_size or 1):
        batch = prompts[start : start + (batch_size or 1)]
        with bar:
            texts = writer.write([writer.prompt(prompt) for prompt in batch], start)
        bar.advance(task, len(batch))
        for number, (prompt, rows) in enumerate(zip(batch, texts, strict=True), start):
            for row, text in enumerate(rows):
                yield Result(prompt, number, row, text)


def print_texts(writer: Writer, prompts: list[str], batch_size: int | None) -> None:
    """Print each prompt and its continuations, a single one as it is written."""
    rows = writer.config.num_return_sequences
    texts = len(prompts) * rows
    if batch_size is None and rows == 1 and writer.config.num_beams == 1:
        for number, prompt in enumerate(prompts):
            begin = partial(_print_prompt, prompt, number, texts)
            stream(writer, writer.prompt(prompt), number, begin)
        return
    for result in results(writer, prompts, batch_size):
        _print_prompt(result.prompt, result.number * rows + result.row, texts)
        typer.echo(writer.text(result.text.tokens))


def stream(
    writer: Writer, prompt: list[int], number: int, begin: Callable[[], None] = lambda: None
) -> Continuation:
    """Print one text word by word. What was printed stays, and ends its line, if it breaks off.

    Args:
        writer: of one text a prompt.
        prompt: tokens.
        number: of the prompt.
        begin: is called before anything is printed, once the options were found to be good.
    """
    from gpt2x import TextStreamer

    class Printer(TextStreamer):
        started = False

        def put(self, value: np.ndarray) -> None:
            if not self.started:
                begin()
            self.started = True
            super().put(value)

    printer = Printer(writer.tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        ((text,),) = writer.write([prompt], number, printer)
    except BaseException:
        if printer.started:
            printer.end()
        raise
    return text


def _print_prompt(prompt: str, place: int, texts: int) -> None:
    """Print a prompt, and a heading where there are several texts to tell apart."""
    if texts > 1:
        typer.secho(f"--- {place + 1} of {texts} ---", dim=True)
    typer.secho(prompt, bold=True, nl=False)
