"""Commands that read files of texts: their progress, and the records that they leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gpt2x.corpus import files as corpus_files


@contextmanager
def reading_bar(files: list[str]) -> Iterator[corpus_files.Progress]:
    """Show how many bytes of the files were read, at a terminal's standard error."""
    from gpt2x.corpus import find_files, total_size

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total_size(find_files(files)))
        yield lambda nbytes: bar.advance(task, nbytes)


def report_skipped(errors: Sequence[Exception]) -> None:
    """Say how many records were left out, and why the first was."""
    if errors:
        console = Console(stderr=True, highlight=False, markup=False)
        console.print(f"Bad records left out: {len(errors)}. The first: {errors[0]}")
