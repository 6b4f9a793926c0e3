"""`gpt2x tokenizer`: train a vocabulary; texts to ids and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gpt2x.cli import _options as options
from gpt2x.cli._files import reading_bar, report_skipped
from gpt2x.errors import DataError, InvalidInputError

app = typer.Typer(add_completion=False, no_args_is_help=True)

Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        "-t",
        help="A folder, a .gguf file, or a name on the hub.",
        show_default="the embedded model's",
    ),
]


@app.callback()
def tokenizer() -> None:
    """Train a tokenizer, and turn texts into ids and back."""


@app.command()
def train(
    files: options.Files,
    vocab_size: Annotated[int, typer.Option(min=1, help="Tokens, special ones included.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="The folder to write.")],
    text_column: options.TextColumn = "text",
    file_format: options.FileFormat = None,
    min_frequency: Annotated[
        int, typer.Option(min=0, help="Merge pairs that occur at least this often.")
    ] = 0,
    special_token: Annotated[
        list[str] | None, typer.Option(help="A further special token. May be repeated.")
    ] = None,
    model_max_length: Annotated[
        int, typer.Option(min=1, help="The longest text of the model to come, in tokens.")
    ] = 1024,
    skip_bad_records: options.SkipBadRecords = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow a folder that has a tokenizer.")
    ] = False,
    like: Tokenizer = None,
    token: options.Token = None,
) -> None:
    """Train byte-level BPE with GPT-2's rules, and save it for models of every framework.

    Settings and special tokens are those of --tokenizer.
    """
    from gpt2x import GPT2TokenizerFast
    from gpt2x.corpus import read_documents

    if (output_dir / "tokenizer_config.json").exists() and not overwrite:
        raise InvalidInputError(
            f"{str(output_dir)!r} has a tokenizer already; choose another folder, or --overwrite."
        )
    skipped: list[Exception] = []
    with reading_bar(files) as advance:
        pieces = read_documents(
            files,
            text_column=text_column,
            file_format=file_format,
            on_bad=skipped.append if skip_bad_records else None,
            progress=advance,
        )
        base = _load(GPT2TokenizerFast, like, token)
        made = base.train_new_from_iterator(
            _some_text(piece.text for piece in pieces),
            vocab_size,
            new_special_tokens=special_token or [],
            min_frequency=min_frequency,
        )
    made.model_max_length = model_max_length
    made.save_pretrained(output_dir)
    report_skipped(skipped)
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(f"Wrote a tokenizer of {len(made):,} tokens to {output_dir}")


@app.command()
def encode(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts.", show_default="standard input")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A text, in a file.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line is a text.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a text: ids, tokens, offsets.")
    ] = False,
    special_tokens: Annotated[
        bool, typer.Option(help="Add the special tokens that the tokenizer is set to add.")
    ] = True,
    name: Tokenizer = None,
    token: options.Token = None,
) -> None:
    """Print the ids of each text on a line. A file, or standard input, is one text."""
    from gpt2x import GPT2TokenizerFast

    tokenizer = _load(GPT2TokenizerFast, name, token)
    for text in _texts(texts, file, lines):
        found = tokenizer(
            text,
            add_special_tokens=special_tokens,
            return_offsets_mapping=True,
            verbose=False,  # it warns of texts longer than the model takes
        )
        ids = found["input_ids"]
        if as_json:
            tokens = [tokenizer.decode([i]) for i in ids]
            row = {"ids": ids, "tokens": tokens, "offsets": found["offset_mapping"]}
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            typer.echo(" ".join(map(str, ids)))


@app.command()
def decode(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of one text.", show_default="standard input, a text a line"),
    ] = None,
    newline: Annotated[
        bool, typer.Option("--newline/--no-newline", help="End each text with a line break.")
    ] = True,
    skip_special_tokens: Annotated[
        bool, typer.Option("--skip-special-tokens", help="Leave special tokens out.")
    ] = False,
    name: Tokenizer = None,
    token: options.Token = None,
) -> None:
    """Print the text of ids, separated by spaces or commas; a JSON list is taken too."""
    from gpt2x import GPT2TokenizerFast

    tokenizer = _load(GPT2TokenizerFast, name, token)
    for line in [" ".join(ids)] if ids else sys.stdin:
        text = tokenizer.decode(_ids(line), skip_special_tokens=skip_special_tokens)
        typer.echo(text, nl=newline)


def _load(kind: Any, name: str | None, token: str | None) -> Any:
    from gpt2x import EMBEDDED_MODEL

    return kind.from_pretrained(name or EMBEDDED_MODEL, **({"token": token} if token else {}))


def _some_text(texts: Iterator[str]) -> Iterator[str]:
    """Return the texts; raise InvalidInputError if there are none."""
    first = next(texts, None)
    if first is None:
        raise InvalidInputError("The files hold no text.")
    return chain([first], texts)


def _texts(texts: list[str] | None, file: Path | None, lines: bool) -> Iterator[str]:
    if texts and file is not None:
        raise InvalidInputError("Give texts or --file, not both.")
    for text in texts or [_read(file)]:
        yield from text.splitlines() if lines else [text]


def _read(file: Path | None) -> str:
    """Read a file, or standard input, without changing its line breaks."""
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file or 'standard input'} is not UTF-8: {error}.") from error


def _ids(line: str) -> list[int]:
    try:
        return [int(word) for word in line.strip().strip("[]").replace(",", " ").split()]
    except ValueError:
        raise InvalidInputError(
            f"Ids are whole numbers, separated by spaces or commas; got {line.strip()!r:.60}."
        ) from None
