"""Texts to a corpus of tokens on the disk: in parallel, and on from where it was cut short."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from gpt2x.corpus import STDIN, Piece, find_files, read_documents, total_size
from gpt2x.corpus.files import Progress
from gpt2x.corpus.records import OnBad, raised
from gpt2x.errors import DataError, check_count
from gpt2x.storage.atomic import atomic_file, atomic_folder
from gpt2x.train.data.encoding import Batch, Encoded, Encoder, batches
from gpt2x.train.data.store import (
    FORMAT,
    INDEX,
    Shard,
    TokenCorpus,
    finished_shards,
    shard_path,
    write_shard,
)
from gpt2x.train.data.workers import ordered_map

#: Gives the documents of a source; calls its argument with the error of each bad record.
Read = Callable[[OnBad], Iterator[Piece]]

#: Tokens and documents of a shard, about.
SHARD_TOKENS = 2**26
_SHARD_DOCUMENTS = 2**20

_BATCH_CHARACTERS = 2**19
# Bytes of files below which starting processes takes longer than it saves.
_FEW = 4_000_000
_SKIPPED = "skipped.jsonl"


def prepare(
    files: Iterable[str | os.PathLike[str]],
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    text_column: str = "text",
    file_format: str | None = None,
    on_bad: OnBad | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenCorpus:
    """Encode the documents of files into a corpus on the disk, each with an end-of-text token.

    The corpus is a folder in `folder`, whose name stands for the files (their paths, sizes and
    times), the tokenizer and the options: a corpus of the same is there already, and one that was
    cut short is finished. A shard is there whole or not at all. Of two processes that prepare the
    same, the second waits for the first.

    Files that can be read only once, such as standard input, have no size or time. What they give
    replaces what they gave before; if they give nothing, that is used again.

    Args:
        files, text_column, file_format, progress: see `gpt2x.corpus.read_documents`.
        tokenizer: GPT2TokenizerFast or GPT2Tokenizer, with an `eos_token`.
        folder: for this corpus and others.
        on_bad: is called with the error of each record that cannot be used, which is then left
            out; again for each of them when the corpus is there already. By default the error is
            raised.
        processes: how many encode, this one if 1; by default one for each core, or this one if
            the files are small. The tokens do not depend on it.
        shard_tokens: how many tokens a shard has, about.

    Raises:
        DataError: if a record or file cannot be used, or there is no text.
        InvalidInputError: if there is no such file or format, or no `eos_token`.
        MissingBackendError: if a format needs a library that is not installed.
        OSError: if the folder cannot be written to, or the disk is full.
    """
    found = find_files(files)
    size = total_size(found)
    if processes is None and size is not None and size < _FEW:
        processes = 1

    def read(on_bad: OnBad) -> Iterator[Piece]:
        return read_documents(
            found,
            text_column=text_column,
            file_format=file_format,
            on_bad=on_bad,
            progress=progress,
        )

    return prepare_pieces(
        read,
        tokenizer,
        folder,
        identity=[[_identity(name) for name in found], text_column, file_format],
        names=found,
        is_read_once=size is None,
        on_bad=on_bad,
        processes=processes,
        shard_tokens=shard_tokens,
    )


def prepare_pieces(
    read: Read,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    identity: Any,
    names: Iterable[str],
    is_read_once: bool = False,
    on_bad: OnBad | None = None,
    processes: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenCorpus:
    """Encode the documents of any source; see `prepare`.

    Args:
        read: gives the documents, always the same in the same order.
        identity: stands for them, in values that JSON has.
        names: of the files in the places of documents.
        is_read_once: whether `read` may give something else, or nothing, the next time.
        tokenizer, folder, on_bad, processes, shard_tokens, and what is raised: see `prepare`.
    """
    from filelock import FileLock

    check_count("processes", processes, 1)
    check_count("shard_tokens", shard_tokens, 1)
    encoder = Encoder(tokenizer)
    target = Path(folder).expanduser() / _key([FORMAT, identity, encoder.fingerprint()])
    target.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in enumerate(names)}
    write = partial(
        _write_shards,
        target,
        encoder=encoder,
        numbers=numbers,
        processes=processes or _cores(),
        shard_tokens=shard_tokens,
    )
    with (
        FileLock(target.with_suffix(".lock")),
        TemporaryFile("w+", dir=target.parent, encoding="utf-8") as messages,
    ):
        is_finished = (target / INDEX).is_file()
        is_at_terminal = STDIN in numbers and sys.stdin.isatty()
        if is_finished and (not is_read_once or is_at_terminal):
            return _reused(target, on_bad or raised)
        bad = _BadRecords(on_bad or raised, messages)
        pieces = read(bad)
        first = next(pieces, None)
        if first is None and is_finished:
            return _reused(target, on_bad or raised)
        if first is None:
            raise DataError("The data holds no text.")
        if is_read_once:
            shutil.rmtree(target, ignore_errors=True)
        shards = write(chain([first], pieces))
        bad.save(target / _SKIPPED)
        index = {
            "format": FORMAT,
            "dtype": encoder.dtype.str,
            "shards": shards,
            "files": list(numbers),
            "skipped": bad.count,
            "identity": identity,
            "encoder": encoder.fingerprint(),
        }
        with atomic_file(target / INDEX) as path:
            path.write_text(json.dumps(index), encoding="utf-8")
    return TokenCorpus(target)


# What a corpus is made of -------------------------------------------------------------------------


def _identity(name: str) -> list[Any]:
    """Return what tells whether a file is the same."""
    path = Path(name)
    if name == STDIN or not path.is_file():
        return [name]
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _key(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Bad records --------------------------------------------------------------------------------------


class _BadRecords:
    """Passes errors on, and keeps their messages.

    Args:
        on_bad: raises an error, or lets its record be left out.
        file: for the messages.
    """

    def __init__(self, on_bad: OnBad, file: IO[str]) -> None:
        self.count = 0
        self._on_bad, self._file = on_bad, file

    def __call__(self, error: DataError) -> None:
        self._on_bad(error)
        self.count += 1
        self._file.write(json.dumps(str(error)) + "\n")

    def save(self, path: Path) -> None:
        """Write the messages to a file, a JSON string a line."""
        self._file.seek(0)
        with atomic_file(path) as beside, beside.open("w", encoding="utf-8") as file:
            shutil.copyfileobj(self._file, file)


def _reused(target: Path, on_bad: OnBad) -> TokenCorpus:
    """Return a finished corpus; bad records are told of as when it was made."""
    corpus = TokenCorpus(target)
    if corpus.skipped:
        with (target / _SKIPPED).open(encoding="utf-8") as file:
            for line in file:
                on_bad(DataError(json.loads(line)))
    return corpus


# Shards -------------------------------------------------------------------------------------------


def _write_shards(
    target: Path,
    pieces: Iterator[Piece],
    *,
    encoder: Encoder,
    numbers: Mapping[str, int],
    processes: int,
    shard_tokens: int,
) -> list[Shard]:
    """Write the shards that are not there yet, and return all."""
    shards = finished_shards(target)
    begins = True
    for piece in islice(pieces, sum(shard.pieces for shard in shards)):
        begins = piece.ends
    work = batches(pieces, min(_BATCH_CHARACTERS, 4 * shard_tokens), begins=begins)
    with closing(_encoded(work, encoder, processes)) as encoded:
        for first in encoded:
            shards.append(
                _write_shard(
                    shard_path(target, len(shards)),
                    chain([first], encoded),
                    numbers=numbers,
                    start=sum(shard.tokens for shard in shards),
                    most=shard_tokens,
                )
            )
    return shards


def _encoded(
    work: Iterable[Batch], encoder: Encoder, processes: int
) -> Generator[tuple[Batch, Encoded], None, None]:
    """Yield batches with their tokens."""
    waiting: deque[Batch] = deque()
    if processes > 1:
        _ = encoder.engine  # found once, not in each process

    def texts() -> Iterator[Any]:
        for batch in work:
            waiting.append(batch)
            yield batch.pieces

    with closing(ordered_map(encoder, texts(), processes)) as results:
        for encoded in results:
            yield waiting.popleft(), encoded


def _write_shard(
    path: Path,
    encoded: Iterator[tuple[Batch, Encoded]],
    *,
    numbers: Mapping[str, int],
    start: int,
    most: int,
) -> Shard:
    """Write a shard of the next batches, until it is full.

    Args:
        path: of the shard.
        encoded: batches and their tokens.
        numbers: of the files by name.
        start: tokens in the shards before.
        most: tokens of a full shard.
    """
    shard, documents = Shard(0, 0, 0), []
    with atomic_folder(path) as folder:
        with (folder / "tokens.bin").open("wb") as file:
            for batch, (tokens, counts) in encoded:
                file.write(tokens.data)
                documents.append(_documents(batch, counts, start + shard.tokens, numbers))
                shard = Shard(
                    shard.tokens + len(tokens),
                    shard.documents + documents[-1].shape[1],
                    shard.pieces + len(counts),
                )
                if shard.tokens >= most or shard.documents >= _SHARD_DOCUMENTS:
                    break
        write_shard(folder, shard, np.concatenate(documents, axis=1))
    return shard


def _documents(
    batch: Batch, counts: np.ndarray, start: int, numbers: Mapping[str, int]
) -> np.ndarray:
    """Return the documents that begin in a batch, as shards have them: int64 [4, D]."""
    places = [(numbers[place.file], place.number, place.unit == "record") for place in batch.places]
    first = start + np.cumsum(counts) - counts
    columns = np.vstack([first, np.array(places, np.int64).T])
    return columns[:, batch.pieces.begins]
