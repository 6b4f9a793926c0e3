"""The files of a corpus: which they are, and their bytes, unpacked."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from gpt2x.backends import require_library
from gpt2x.errors import DataError, InvalidInputError

#: The name that stands for standard input.
STDIN = "-"

#: Is told how many more bytes of the files were read, before they are unpacked.
Progress = Callable[[int], Any]


def find_files(patterns: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the files that names and patterns such as `data/*.jsonl` stand for.

    Files of a pattern are sorted by name. `-` stands for standard input.

    Raises:
        InvalidInputError: if there are no patterns, or one stands for nothing or for a folder.
    """
    patterns = [patterns] if isinstance(patterns, str | os.PathLike) else list(patterns)
    files = [file for pattern in patterns for file in _matches(os.fspath(pattern))]
    if not files:
        raise InvalidInputError("No files were given: name one or more, or - for standard input.")
    if files.count(STDIN) > 1:
        raise InvalidInputError("Standard input (-) was given twice, but can be read only once.")
    return files


def _matches(pattern: str) -> list[str]:
    if pattern != STDIN and Path(pattern).is_dir():
        raise InvalidInputError(
            f"{pattern!r} is a folder; name its files, as in {str(Path(pattern) / '*.txt')!r}."
        )
    if pattern == STDIN or Path(pattern).exists():
        return [pattern]
    found = sorted(name for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not found:
        what = "matches no file" if glob.has_magic(pattern) else "does not exist"
        raise InvalidInputError(f"{pattern!r} {what}.")
    return found


def total_size(files: Iterable[str]) -> int | None:
    """Return the bytes of files together; None if one of them has no size, such as a pipe."""
    files = list(files)
    if not all(name != STDIN and Path(name).is_file() for name in files):
        return None
    return sum(Path(name).stat().st_size for name in files)


def inner_name(name: str) -> str:
    """Return the name of a file without the suffix of its compression."""
    path = PurePath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in _OPENERS else name


@contextmanager
def opened(name: str, progress: Progress | None = None) -> Iterator[BinaryIO]:
    """Open a file for reading and unpack it, as its suffix says: .gz, .bz2, .xz or .zst.

    Raises:
        DataError: in the block too, if the file cannot be unpacked.
    """
    if name == STDIN:
        yield _counted(sys.stdin.buffer, progress)
        return
    unpack = _OPENERS.get(PurePath(name).suffix.lower())
    with Path(name).open("rb") as packed:
        file = _counted(packed, progress)
        if unpack is None:
            yield file
            return
        try:
            with unpack(file) as unpacked:
                yield unpacked
        except _damage() as error:
            raise DataError(f"{name}: cannot be unpacked: {error}.") from error


def _zstandard(file: BinaryIO) -> Any:
    library = require_library("zstandard", wanted_for="reading a .zst file", extra="train")
    # A file may be several frames, one after another.
    reader = library.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return io.BufferedReader(reader)


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}


def _damage() -> tuple[type[Exception], ...]:
    """Return what the libraries raise for damaged files."""
    zstandard = sys.modules.get("zstandard")
    extra = (zstandard.ZstdError,) if zstandard else ()
    return (OSError, EOFError, zlib.error, lzma.LZMAError, *extra)


def _counted(file: BinaryIO, progress: Progress | None) -> BinaryIO:
    return file if progress is None else io.BufferedReader(_Counted(file, progress))


class _Counted(io.RawIOBase):
    """A file that tells a function how many bytes are read from it."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._progress(count)
        return count
