"""Tokens on the disk: shards that are memory-mapped, and the index of documents in them.

A corpus is a folder. Its shards are folders ``shard-00000``, ``shard-00001`` ..., each with

- ``tokens.bin``: the tokens, little-endian uint16 or uint32, one after another and nothing else;
- ``documents.npy``: int64 [4, D], a column for each document that begins in the shard: its first
  token, counted through the corpus; its file, counted in the index; where it begins there, from 1;
  and whether that counts records (1) or lines (0);
- ``shard.json``: the counts of tokens, of documents, and of pieces of text that it was made of.

Its ``index.json`` comes last, when all shards are there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from gpt2x.corpus import Place
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.storage.json_files import read_object
from gpt2x.train.data.identity import fingerprint

FORMAT = 1
INDEX = "index.json"

# Shards that are mapped at once. More would let the pages of a whole corpus count as memory.
_MAPPED = 4

# Pieces of a corpus that its fingerprint is made of, and their tokens.
_PIECES, _PIECE = 256, 4096


class Shard(NamedTuple):
    """The counts of a shard.

    Attributes:
        tokens: in it.
        documents: that begin in it.
        pieces: of text (see `gpt2x.corpus.Piece`) that were read for it.
    """

    tokens: int
    documents: int
    pieces: int


def shard_path(folder: Path, number: int) -> Path:
    """Return the folder of a shard."""
    return folder / f"shard-{number:05d}"


def write_shard(folder: Path, shard: Shard, documents: np.ndarray) -> None:
    """Write what a shard has beside its tokens, ``tokens.bin``."""
    np.save(folder / "documents.npy", documents)
    (folder / "shard.json").write_text(json.dumps(shard._asdict()), encoding="utf-8")


def finished_shards(folder: Path) -> list[Shard]:
    """Return the shards of an unfinished corpus."""
    shards: list[Shard] = []
    while (path := shard_path(folder, len(shards)) / "shard.json").is_file():
        shards.append(Shard(**read_object(path)))
    return shards


class _Stored(NamedTuple):
    """Where a shard is, and how much of joined corpora stands before its own."""

    path: Path
    shard: Shard
    dtype: np.dtype[Any]
    first_token: int = 0
    first_file: int = 0


class TokenCorpus:
    """The tokens of documents, in order, each document with the end-of-text token behind it.

    Args:
        folder: of a finished corpus; see `gpt2x.train.data.prepare`.

    Attributes:
        folder: see there; the first one's of joined corpora.
        skipped: how many bad records were left out.

    Raises:
        CheckpointError: if the folder does not hold one, or one of another version.
    """

    def __init__(self, folder: Path) -> None:
        index = read_object(folder / INDEX)
        if index.get("format") != FORMAT:
            raise CheckpointError(
                f"The tokens in {str(folder)!r} are of format {index.get('format')!r}, not "
                f"{FORMAT}. Delete the folder, and they are made again."
            )
        self.folder = folder
        self.skipped: int = index["skipped"]
        self._files: list[str] = index["files"]
        self._encoder = index.get("encoder")  # what stands for the tokenizer; None of old corpora
        dtype = np.dtype(index["dtype"])
        shards = [Shard(*counts) for counts in index["shards"]]
        paths = (shard_path(folder, number) for number in range(len(shards)))
        self._set([_Stored(path, s, dtype) for path, s in zip(paths, shards, strict=True)])

    @classmethod
    def joined(cls, corpora: Sequence[Self]) -> Self:
        """Return corpora as one, in this order; nothing is copied.

        Args:
            corpora: whole ones, such as those that several machines have prepared with the same
                tokenizer.

        Raises:
            InvalidInputError: if there is none, one is a part of a corpus, or their tokenizers are
                not the same.
        """
        if not corpora or any(len(corpus) != corpus._token_bounds[-1] for corpus in corpora):
            raise InvalidInputError("Pass one corpus or more to join, each of them whole.")
        if any(corpus._encoder != corpora[0]._encoder for corpus in corpora):
            raise InvalidInputError(
                "The corpora were prepared with different tokenizers; prepare them with one."
            )
        joined = copy.copy(corpora[0])
        joined.skipped = sum(corpus.skipped for corpus in corpora)
        joined._files, stored = [], []
        tokens = 0
        for corpus in corpora:
            stored += [
                one._replace(
                    first_token=one.first_token + tokens,
                    first_file=one.first_file + len(joined._files),
                )
                for one in corpus._stored
            ]
            tokens += len(corpus)
            joined._files += corpus._files
        joined._set(stored)
        return joined

    def _set(self, stored: list[_Stored]) -> None:
        self._stored = stored
        # Where each shard begins, and the last one ends.
        self._token_bounds = _bounds([one.shard.tokens for one in stored])
        self._document_bounds = _bounds([one.shard.documents for one in stored])
        self._first, self._last = 0, int(self._token_bounds[-1])
        self._tokens = lru_cache(_MAPPED)(self._map_tokens)
        self._documents = lru_cache(_MAPPED)(self._map_documents)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._last - self._first

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the tokens from `start` to before `stop`: int32.

        Raises InvalidInputError if there are fewer.
        """
        if not 0 <= start <= stop <= len(self):
            raise InvalidInputError(f"Tokens {start} to {stop} of {len(self)} were asked for.")
        start, stop = start + self._first, stop + self._first
        tokens = np.empty(stop - start, np.int32)
        for shard in _overlapping(self._token_bounds, start, stop):
            begin, end = (int(bound) for bound in self._token_bounds[shard : shard + 2])
            low, high = max(start, begin), min(stop, end)
            tokens[low - start : high - start] = self._tokens(shard)[low - begin : high - begin]
        return tokens

    def fingerprint(self) -> str:
        """Return what stands for the tokens, wherever the files are and however they are divided.

        Of a large corpus it is made of the length and of about a million tokens all over it.
        """
        step = max(_PIECE, len(self) // _PIECES)
        starts = range(0, len(self), step)
        pieces = (self.read(start, min(start + _PIECE, len(self))) for start in starts)
        return fingerprint([np.array(len(self)), *pieces])

    @property
    def num_documents(self) -> int:
        """The number of documents, of which the first and the last may be there in part."""
        if len(self) == 0:
            return 0
        return self._document_at(self._last - 1) - self._first_document + 1

    def document(self, index: int) -> np.ndarray:
        """Return the tokens of a document, with the one that ends it: int32."""
        return self.read(*self.span(index))

    def span(self, index: int) -> tuple[int, int]:
        """Return the first token of a document, and the one behind its last.

        Raises InvalidInputError if there are fewer documents.
        """
        if not 0 <= index < self.num_documents:
            raise InvalidInputError(f"Document {index} of {self.num_documents} was asked for.")
        number = self._first_document + index
        start = max(self._start(number), self._first) - self._first
        return start, min(self._start(number + 1), self._last) - self._first

    def places(self, start: int, stop: int) -> list[Place]:
        """Return where the documents begin that have the tokens from `start` to before `stop`."""
        if start >= stop:
            return []
        first = self._document_at(start + self._first)
        last = self._document_at(stop - 1 + self._first)
        return [self._place(number) for number in range(first, last + 1)]

    def split(self, percentage: float, *, whole_documents: bool = False) -> tuple[Self, Self]:
        """Divide the corpus; the last `percentage` of a hundred tokens are the second part.

        Args:
            percentage: between 0 and 100.
            whole_documents: whether documents are counted in the place of tokens, so that none is
                divided.

        Raises:
            InvalidInputError: if a part would be empty.
        """
        count = self.num_documents if whole_documents else len(self)
        first = count - round(count * percentage / 100)
        if not 0 < first < count:
            what = "documents" if whole_documents else "tokens"
            raise InvalidInputError(
                f"{percentage:g}% of {count} {what} leaves nothing to one of two parts."
            )
        middle = self.span(first)[0] if whole_documents else first
        return self.part(0, middle), self.part(middle, len(self))

    def part(self, start: int, stop: int) -> Self:
        """Return the tokens from `start` to before `stop` as a corpus."""
        part = type(self).__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._first, part._last = self._first + start, self._first + stop
        return part

    @property
    def _first_document(self) -> int:
        return self._document_at(self._first)

    def _document_at(self, token: int) -> int:
        """Return the document that has a token of the whole corpus."""
        shard = _holder(self._token_bounds, token)
        found = int(np.searchsorted(self._documents(shard)[0], token, side="right"))
        # Not found: one that began in an earlier shard goes on.
        return int(self._document_bounds[shard]) + found - 1

    def _start(self, number: int) -> int:
        """Return the first token of a document of the whole corpus, or the end behind the last."""
        if number == self._document_bounds[-1]:
            return int(self._token_bounds[-1])
        return int(self._record(number)[0])

    def _place(self, number: int) -> Place:
        _, file, line, is_record = self._record(number).tolist()
        return Place(self._files[file], line, "record" if is_record else "line")

    def _record(self, number: int) -> np.ndarray:
        shard = _holder(self._document_bounds, number)
        return self._documents(shard)[:, number - int(self._document_bounds[shard])]

    def _map_tokens(self, shard: int) -> np.ndarray:
        stored = self._stored[shard]
        return np.memmap(stored.path / "tokens.bin", stored.dtype, mode="r")

    def _map_documents(self, shard: int) -> np.ndarray:
        stored = self._stored[shard]
        documents = np.load(stored.path / "documents.npy", mmap_mode="r")
        if stored.first_token == stored.first_file == 0:
            return documents
        # Of a joined corpus: its tokens and files are counted through all.
        return documents + np.array([[stored.first_token], [stored.first_file], [0], [0]])


def _bounds(counts: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *counts], dtype=np.int64)


def _holder(bounds: np.ndarray, number: int) -> int:
    """Return which shard holds a token or document."""
    return int(np.searchsorted(bounds, number, side="right")) - 1


def _overlapping(bounds: np.ndarray, start: int, stop: int) -> range:
    """Return the shards that hold tokens from `start` to before `stop`."""
    return (
        range(_holder(bounds, start), _holder(bounds, stop - 1) + 1) if start < stop else range(0)
    )
