"""Documents out of files: one at a time, with the places where they stand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BytesIO
from typing import BinaryIO, NamedTuple

from gpt2x.corpus.files import Progress, find_files
from gpt2x.corpus.records import (
    RECORD_FORMATS,
    UTF8_MARK,
    OnBad,
    Place,
    Record,
    Source,
    decoded,
    raised,
    record_format,
)
from gpt2x.errors import DataError, check_choice

#: Bytes of text in a piece, about.
PIECE = 1 << 20

# Up to the last place where GPT-2's pattern always divides a text: between something that is not
# white space and white space.
_DIVISIBLE = re.compile(r".*\S(?=[ \t\r\n])", re.DOTALL)


class Piece(NamedTuple):
    """A document, or a part of one that is long.

    Attributes:
        text: never empty. Pieces of a document divide it where GPT-2's pattern does, so that
            their tokens, one after another, are those of the document.
        place: where it begins.
        ends: whether the document ends with it.
    """

    text: str
    place: Place
    ends: bool


def read_documents(
    files: Iterable[str | os.PathLike[str]],
    *,
    text_column: str = "text",
    file_format: str | None = None,
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> Iterator[Piece]:
    """Read the documents of files, in order.

    Args:
        files, on_bad, progress: see `read_records`.
        text_column: the column of records that has the text.
        file_format: "text" is a document a file, "lines" one a line that is not blank; the others
            are those of `read_records`. By default the suffix of each file tells, and any that it
            does not tell is text.

    Raises:
        DataError: if a record or file cannot be used; it names the file and the line.
        InvalidInputError: at once, if there is no such file or format.
        MissingBackendError: if a format needs a library that is not installed.
    """
    if file_format is not None:
        check_choice("file_format", file_format, FILE_FORMATS)
    source = Source(on_bad or raised, progress)
    found = [(name, file_format or record_format(name) or "text") for name in find_files(files)]
    readers = {
        kind: _TEXT_FORMATS.get(kind) or partial(_read_column, kind, text_column)
        for _, kind in found
    }
    return (piece for name, kind in found for piece in readers[kind](source, name))


def record_documents(records: Iterable[Record], column: str, on_bad: OnBad) -> Iterator[Piece]:
    """Yield the text of each record that has any.

    Args:
        records: in order.
        column: that has the text.
        on_bad: is called with the error of each record that has no such column of text.
    """
    for record in records:
        try:
            text = record.text(column)
        except DataError as error:
            on_bad(error)
            continue
        if text:
            yield from _divided(text, record.place)


def _read_column(kind: str, column: str, source: Source, name: str) -> Iterator[Piece]:
    records = RECORD_FORMATS[kind](source._replace(column=column), name)
    return record_documents(records, column, source.on_bad)


def _read_text(source: Source, name: str) -> Iterator[Piece]:
    """Yield a file as one document, in pieces."""
    kept, begin = "", 1
    with source.opened(name) as file:
        for number, text in _texts(source, name, file):
            begin = begin if kept else number
            kept += text
            if len(kept) >= PIECE and (found := _DIVISIBLE.match(kept)):
                yield Piece(found[0], Place(name, begin), ends=False)
                begin += found[0].count("\n")
                kept = kept[found.end() :]
    if kept:
        yield Piece(kept, Place(name, begin), ends=True)


def _read_lines(source: Source, name: str) -> Iterator[Piece]:
    """Yield each line that is not blank as a document, without its line break."""
    with source.opened(name) as file:
        for number, line in decoded(source, name, file):
            if text := line.strip("\r\n"):
                yield from _divided(text, Place(name, number))


def _divided(text: str, place: Place) -> Iterator[Piece]:
    """Yield a document in pieces."""
    begin = 0
    while len(text) - begin > PIECE and (found := _DIVISIBLE.match(text, begin, begin + PIECE)):
        yield Piece(found[0], place, ends=False)
        begin = found.end()
    yield Piece(text[begin:], place, ends=True)


def _texts(source: Source, name: str, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield lines, several together, and the number of the first; or parts of a long line."""
    number = 1
    for block in _blocks(file):
        try:
            yield number, block.decode()
        except UnicodeDecodeError:
            yield from decoded(source, name, BytesIO(block), number)
        number += block.count(b"\n")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file, divided after a line break, or after a space in a long line."""
    rest = file.read(PIECE).removeprefix(UTF8_MARK)
    while chunk := file.read(PIECE):
        end = rest.rfind(b"\n") + 1 or rest.rfind(b" ") + 1
        if end:
            yield rest[:end]
        rest = rest[end:] + chunk
    yield rest


_TEXT_FORMATS: dict[str, Callable[[Source, str], Iterator[Piece]]] = {
    "text": _read_text,
    "lines": _read_lines,
}
#: The names of the formats of files.
FILE_FORMATS = (*_TEXT_FORMATS, *RECORD_FORMATS)
