"""Documents out of files: one at a time, with the places where they stand."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple

from gpt2x.backends import require_library
from gpt2x.corpus.files import STDIN, Progress, find_files, inner_name, opened
from gpt2x.errors import DataError, check_choice, listed

#: Bytes of text in a piece, about.
PIECE = 1 << 20

_UTF8_MARK = b"\xef\xbb\xbf"
# Up to the last place where GPT-2's pattern always divides a text: between something that is not
# white space and white space.
_DIVISIBLE = re.compile(r".*\S(?=[ \t\r\n])", re.DOTALL)

#: Receives the error of each record that is left out.
OnBad = Callable[[DataError], Any]


class Piece(NamedTuple):
    """A document, or a part of one that is long.

    Attributes:
        text: never empty. Pieces of a document divide it where GPT-2's pattern does, so that
            their tokens, one after another, are those of the document.
        file: its name.
        number: where it begins: the line of the file, or the record, from 1.
        ends: whether the document ends with it.
    """

    text: str
    file: str
    number: int
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
        files: names, patterns (`data/*.jsonl`), or `-` for standard input; those that end in .gz,
            .bz2, .xz or .zst are unpacked.
        text_column: the field or column that has the text.
        file_format: of all files; by default the suffix of each tells. "text" is a document a
            file, "lines" one a line; "json" is JSON lines, or an array of objects; "csv" and "tsv"
            have a line of names first; "parquet".
        on_bad: is called with the error of each record that cannot be used, which is then left
            out; by default the error is raised.
        progress: is told how many more bytes of the files were read.

    Raises:
        DataError: if a record or file cannot be used; it names the file and the line.
        InvalidInputError: at once, if there is no such file or format.
        MissingBackendError: if a format needs a library that is not installed.
    """
    if file_format is not None:
        check_choice("file_format", file_format, FILE_FORMATS)
    found = [(name, file_format or _format_of(name)) for name in find_files(files)]
    source = _Source(text_column, on_bad or _raise, progress)
    return (piece for name, kind in found for piece in FILE_FORMATS[kind](source, name))


def _format_of(name: str) -> str:
    return _SUFFIXES.get(PurePath(inner_name(name)).suffix.lower(), "text")


def _raise(error: DataError) -> None:
    raise error


class _Source(NamedTuple):
    """How records are read."""

    text_column: str
    on_bad: OnBad
    progress: Progress | None

    def opened(self, name: str) -> Any:
        return opened(name, self.progress)

    def bad(self, name: str, number: int, what: str, unit: str = "line") -> None:
        shown = "standard input" if name == STDIN else name
        self.on_bad(DataError(f"{shown}, {unit} {number}: {what}."))

    def document(self, name: str, number: int, record: Any, unit: str = "line") -> Iterator[Piece]:
        """Yield the text of a record, unless it is empty or bad."""
        column = self.text_column
        if not isinstance(record, dict):
            self.bad(name, number, f"a record must be an object, not {type(record).__name__}", unit)
        elif column not in record:
            has = listed(repr(key) for key in record)
            self.bad(name, number, f"has no {column!r} (text_column names it), but {has}", unit)
        elif not isinstance(text := record[column], str):
            self.bad(name, number, f"{column!r} is {text!r:.40}, not a string", unit)
        elif not _is_unicode(text):
            self.bad(name, number, f"{column!r} holds bytes or halves that are not UTF-8", unit)
        elif text:
            yield Piece(text, name, number, ends=True)


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded: not if it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- text -------------------------------------------------------------------------------------


def _read_text(source: _Source, name: str) -> Iterator[Piece]:
    """Yield a file as one document, in pieces."""
    kept, begin = "", 1
    with source.opened(name) as file:
        for number, text in _texts(source, name, file):
            begin = begin if kept else number
            kept += text
            if len(kept) >= PIECE and (found := _DIVISIBLE.match(kept)):
                yield Piece(found[0], name, begin, ends=False)
                begin += found[0].count("\n")
                kept = kept[found.end() :]
    if kept:
        yield Piece(kept, name, begin, ends=True)


def _read_lines(source: _Source, name: str) -> Iterator[Piece]:
    """Yield each line that is not blank as a document, without its line break."""
    with source.opened(name) as file:
        for number, line in _decoded(source, name, file):
            if text := line.strip("\r\n"):
                yield Piece(text, name, number, ends=True)


def _texts(source: _Source, name: str, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield lines, several together, and the number of the first; or parts of a long line."""
    number = 1
    for block in _blocks(file):
        try:
            yield number, block.decode()
        except UnicodeDecodeError:
            yield from _decoded(source, name, BytesIO(block), number)
        number += block.count(b"\n")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file, divided after a line break, or after a space in a long line."""
    rest = file.read(PIECE).removeprefix(_UTF8_MARK)
    while chunk := file.read(PIECE):
        end = rest.rfind(b"\n") + 1 or rest.rfind(b" ") + 1
        if end:
            yield rest[:end]
        rest = rest[end:] + chunk
    yield rest


def _decoded(
    source: _Source, name: str, lines: Iterable[bytes], first: int = 1
) -> Iterator[tuple[int, str]]:
    """Yield the lines that are UTF-8, and their numbers."""
    for number, line in enumerate(lines, first):
        try:
            yield number, (line.removeprefix(_UTF8_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            source.bad(name, number, f"byte {error.start + 1} is not UTF-8: {error.reason}")


# ---- records ----------------------------------------------------------------------------------


def _read_json(source: _Source, name: str) -> Iterator[Piece]:
    """Yield the objects of JSON lines, or those of one array."""
    with source.opened(name) as file:
        for number, line in _decoded(source, name, file):
            if number == 1 and line.lstrip().startswith("["):
                yield from _read_array(source, name, line + file.read().decode())
                return
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    source.bad(name, number, f"is not JSON, one object a line: {error}")
                    continue
                yield from source.document(name, number, record)


def _read_array(source: _Source, name: str, text: str) -> Iterator[Piece]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is not JSON: {error}.") from error
    for number, record in enumerate(records, 1):
        yield from source.document(name, number, record, unit="record")


def _read_csv(source: _Source, name: str, delimiter: str = ",") -> Iterator[Piece]:
    # A document may be longer than the 128 KiB that Python's reader allows a field by default.
    csv.field_size_limit(sys.maxsize)
    with source.opened(name) as file:
        # Wrong bytes become surrogates, which are found in the record that has them.
        lines = TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(lines, delimiter=delimiter)
        names, number = None, 1
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                source.bad(name, number, f"is not a record: {error}")
            else:
                if names is None:
                    names = row
                elif row:
                    yield from source.document(name, number, dict(zip(names, row, strict=False)))
            number = rows.line_num + 1


def _read_tsv(source: _Source, name: str) -> Iterator[Piece]:
    return _read_csv(source, name, delimiter="\t")


def _read_parquet(source: _Source, name: str) -> Iterator[Piece]:
    parquet = require_library("pyarrow.parquet", wanted_for="reading Parquet files", extra="train")
    if name == STDIN or inner_name(name) != name:
        raise DataError(f"{name}: a Parquet file is read from its end; give it as a plain file.")
    try:
        with parquet.ParquetFile(name) as file:
            columns = [column for column in file.schema_arrow.names if column == source.text_column]
            yield from _parquet_rows(source, name, file, columns or file.schema_arrow.names)
    except sys.modules["pyarrow"].ArrowInvalid as error:
        raise DataError(f"{name}: is not a Parquet file: {error}.") from error


def _parquet_rows(source: _Source, name: str, file: Any, columns: list[str]) -> Iterator[Piece]:
    number = 0
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(row_groups=[group], columns=columns, batch_size=256):
            for record in batch.to_pylist():
                number += 1
                yield from source.document(name, number, record, unit="record")
        if source.progress is not None:
            source.progress(file.metadata.row_group(group).total_compressed_size)


#: The formats of files, by name.
FILE_FORMATS: dict[str, Callable[[_Source, str], Iterator[Piece]]] = {
    "text": _read_text,
    "lines": _read_lines,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
}
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
