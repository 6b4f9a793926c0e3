"""Records out of files of JSON, CSV and Parquet: their fields, and the places where they stand."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from itertools import count
from pathlib import PurePath
from typing import Any, NamedTuple

from gpt2x.backends import require_library
from gpt2x.corpus.files import STDIN, Progress, find_files, inner_name, opened
from gpt2x.errors import DataError, InvalidInputError, check_choice, listed

UTF8_MARK = b"\xef\xbb\xbf"

#: Receives the error of each record that is left out.
OnBad = Callable[[DataError], Any]


class Place(NamedTuple):
    """Where a record stands.

    Attributes:
        file: its name.
        number: from 1.
        unit: what is counted, "line" or "record".
    """

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        file = "standard input" if self.file == STDIN else self.file
        return f"{file}, {self.unit} {self.number}"

    def error(self, what: str) -> DataError:
        """Return the error of this record."""
        return DataError(f"{self}: {what}.")


class Record(NamedTuple):
    """Named values of any type, and their place."""

    fields: dict[str, Any]
    place: Place

    def value(self, column: str) -> Any:
        """Return what a column holds; raises DataError if there is no such column."""
        if column not in self.fields:
            has = listed(repr(name) for name in self.fields) or "nothing"
            raise self.place.error(f"has no column {column!r}, but {has}")
        return self.fields[column]

    def text(self, column: str) -> str:
        """Return the text of a column.

        Raises:
            DataError: if there is no such column, or it holds anything but text.
        """
        return self._text(column, self.value(column))

    def words(self, column: str) -> list[str]:
        """Return the words of a column: a list of texts, or a text with white space between them.

        Raises:
            DataError: if there is no such column, or it holds anything else, or an empty word.
        """
        value = self.value(column)
        if not isinstance(value, list):
            return self._text(column, value).split()
        words = [self._text(f"{column}[{number}]", word) for number, word in enumerate(value)]
        if "" in words:
            raise self.place.error(f"{column!r} has an empty word, number {words.index('') + 1}")
        return words

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.place.error(f"{name!r} is {value!r:.40}, not a string")
        if not _is_unicode(value):
            raise self.place.error(f"{name!r} holds bytes or halves that are not UTF-8")
        return value


class Source(NamedTuple):
    """How files are read.

    Attributes:
        on_bad: is called with the error of each record that cannot be used.
        progress: is told how many more bytes of the files were read.
        column: the only column that is needed, or None.
    """

    on_bad: OnBad
    progress: Progress | None = None
    column: str | None = None

    def opened(self, name: str) -> Any:
        """Open a file; see `files.opened`."""
        return opened(name, self.progress)


def read_records(
    files: Iterable[str | os.PathLike[str]],
    *,
    file_format: str | None = None,
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> Iterator[Record]:
    """Read the records of files, in order.

    Args:
        files: names, patterns (`data/*.jsonl`), or `-` for standard input; those that end in .gz,
            .bz2, .xz or .zst are unpacked.
        file_format: of all files; by default the suffix of each tells. "json" is JSON lines, or an
            array of objects; "csv" and "tsv" have a line of names first; "parquet".
        on_bad: is called with the error of each record that cannot be read, which is then left
            out; by default the error is raised.
        progress: is told how many more bytes of the files were read.

    Raises:
        DataError: if a record or file cannot be read; it names the file and the line.
        InvalidInputError: at once, if there is no such file or format.
        MissingBackendError: if a format needs a library that is not installed.
    """
    if file_format is not None:
        check_choice("file_format", file_format, RECORD_FORMATS)
    found = [(name, file_format or record_format(name)) for name in find_files(files)]
    for name, kind in found:
        if kind is None:
            raise InvalidInputError(
                f"{name!r} does not say by its suffix what it is; give file_format, one of "
                f"{', '.join(RECORD_FORMATS)}."
            )
    source = Source(on_bad or raised, progress)
    return (record for name, kind in found for record in RECORD_FORMATS[kind or ""](source, name))


def raised(error: DataError) -> None:
    """Raise an error: the `on_bad` that leaves nothing out."""
    raise error


def record_format(name: str) -> str | None:
    """Return the format of records that the suffix of a file stands for, if any."""
    return _SUFFIXES.get(PurePath(inner_name(name)).suffix.lower())


def decoded(
    source: Source, name: str, lines: Iterable[bytes], first: int = 1
) -> Iterator[tuple[int, str]]:
    """Yield the lines that are UTF-8, and their numbers."""
    for number, line in enumerate(lines, first):
        try:
            yield number, (line.removeprefix(UTF8_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} is not UTF-8: {error.reason}"
            source.on_bad(Place(name, number).error(what))


def _read_json(source: Source, name: str) -> Iterator[Record]:
    """Yield the objects of JSON lines, or those of one array."""
    is_first = True
    with source.opened(name) as file:
        for number, line in decoded(source, name, file):
            if is_first and line.lstrip().startswith("["):
                yield from _read_array(source, name, line.encode() + file.read())
                return
            if line.strip():
                is_first = False
                place = Place(name, number)
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    source.on_bad(place.error(f"is not JSON, one object a line: {error}"))
                    continue
                yield from _objects(source, [(value, place)])


def _read_array(source: Source, name: str, text: bytes) -> Iterator[Record]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is not JSON: {error}.") from error
    places = (Place(name, number, "record") for number in range(1, len(values) + 1))
    yield from _objects(source, zip(values, places, strict=True))


def _objects(source: Source, values: Iterable[tuple[Any, Place]]) -> Iterator[Record]:
    for value, place in values:
        if isinstance(value, dict):
            yield Record(value, place)
        else:
            what = f"a record must be an object, not {type(value).__name__}"
            source.on_bad(place.error(what))


def _read_csv(source: Source, name: str, delimiter: str = ",") -> Iterator[Record]:
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
                source.on_bad(Place(name, number).error(f"is not a record: {error}"))
            else:
                if names is None:
                    names = row
                elif row:
                    yield Record(dict(zip(names, row, strict=False)), Place(name, number))
            number = rows.line_num + 1


def _read_tsv(source: Source, name: str) -> Iterator[Record]:
    return _read_csv(source, name, delimiter="\t")


def _read_parquet(source: Source, name: str) -> Iterator[Record]:
    parquet = require_library("pyarrow.parquet", wanted_for="reading Parquet files", extra="train")
    if name == STDIN or inner_name(name) != name:
        raise DataError(f"{name}: a Parquet file is read from its end; give it as a plain file.")
    numbers = count(1)
    try:
        with parquet.ParquetFile(name) as file:
            columns = [column for column in file.schema_arrow.names if column == source.column]
            options = {"columns": columns or None, "batch_size": 256}
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(row_groups=[group], **options):
                    for fields in batch.to_pylist():
                        yield Record(fields, Place(name, next(numbers), "record"))
                if source.progress is not None:
                    source.progress(file.metadata.row_group(group).total_compressed_size)
    except sys.modules["pyarrow"].ArrowInvalid as error:
        raise DataError(f"{name}: is not a Parquet file: {error}.") from error


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded: not if it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


#: The formats of records, by name.
RECORD_FORMATS: dict[str, Callable[[Source, str], Iterator[Record]]] = {
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
