"""Documents that are read while a model trains on them, and go on from where they stood."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import numpy as np

from gpt2x.corpus import Piece, Place, read_documents
from gpt2x.corpus.records import OnBad
from gpt2x.errors import DataError, check_count
from gpt2x.train.data.encoding import Batch, Encoder, batches

State = Mapping[str, Any]

# Characters that are encoded at once. A run that goes on encodes its last ones again.
_CHARACTERS = 2**17


class DocumentStream(Protocol):
    """Pieces of documents, which can be read again from the begin, or from a state.

    A stream reads from its begin when it is made.
    """

    def __iter__(self) -> Iterator[Piece]:
        """Return the pieces that are left; a state counts those that were taken of them."""

    def state(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON has it."""

    def restore(self, state: State) -> None:
        """Go to where `state` was; an empty one is the begin."""


class FileStream:
    """The documents of files. A state is their number: restoring reads them, but encodes none.

    Args, and what is raised: see `gpt2x.corpus.read_documents`. `on_bad` is called for a bad record
    whenever it is read.
    """

    def __init__(
        self,
        files: Iterable[str | os.PathLike[str]],
        *,
        text_column: str = "text",
        file_format: str | None = None,
        on_bad: OnBad | None = None,
    ) -> None:
        self._files = [files] if isinstance(files, str | os.PathLike) else list(files)
        self._options: Any = {
            "text_column": text_column,
            "file_format": file_format,
            "on_bad": on_bad,
        }
        self.restore({})

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self._count += 1
            yield piece

    def state(self) -> dict[str, Any]:
        return {"pieces": self._count}

    def restore(self, state: State) -> None:
        self._count = int(state.get("pieces", 0))
        self._pieces = read_documents(self._files, **self._options)
        deque(islice(self._pieces, self._count), maxlen=0)


class StreamedBlocks:
    """Rows of `block_size` tokens, cut from documents that are joined as `prepare` does it.

    It has no end: behind the last document comes the first, of the next epoch.

    Args:
        documents: to read.
        tokenizer: see `gpt2x.train.data.prepare`.
        block_size: tokens of each row.

    Raises:
        DataError: where a row is asked for, if a record or file cannot be used, or there is no
            text.
        InvalidInputError: if the tokenizer has no end-of-text token.
    """

    def __init__(self, documents: DocumentStream, tokenizer: Any, block_size: int) -> None:
        check_count("block_size", block_size, 1)
        self._documents, self._encoder, self._size = documents, Encoder(tokenizer), block_size
        # Tokens of rows that were given; of these, tokens of rows that `places` has told of.
        self._used = self._told = 0
        self._told_before: list[Place] = []
        self._go_to({})

    def __iter__(self) -> StreamedBlocks:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next row: `input_ids` and `labels`, both int32 [T] and equal."""
        while len(self._tokens) - self._used < self._size:
            self._read_more()
        row = self._tokens[self._used : self._used + self._size]
        self._used += self._size
        return {"input_ids": row.copy(), "labels": row.copy()}

    def places(self) -> list[Place]:
        """Return where the documents of the rows begin that were given since the last call."""
        first, last = np.searchsorted(self._stops, [self._told, self._used - 1], side="right")
        places = [*self._told_before, *self._places[first : last + 1]]
        self._told, self._told_before = self._used, []
        return list(dict.fromkeys(places))

    def state(self) -> dict[str, Any]:
        """Return where the rows stand, as JSON has it."""
        return {**self._mark, "used": self._used}

    def restore(self, state: State) -> None:
        """Go to where `state` was, so that the row that followed it comes next."""
        self._go_to(state)
        if state["used"]:
            self._read_more()
        self._used = self._told = state["used"]

    def _go_to(self, mark: State) -> None:
        """Go to where a batch of documents begins, behind tokens that no row has had yet."""
        self._documents.restore(mark.get("documents", {}))
        self._epoch = int(mark.get("epoch", 0))
        self._begins = bool(mark.get("begins", True))
        self._tokens = np.array(mark.get("tokens", []), np.int32)
        self._places = [Place(*place) for place in mark.get("places", [])]
        self._stops = np.array(mark.get("stops", []), np.int64)
        self._batches = self._new_batches()
        self._used = self._told = 0
        self._told_before = []
        self._mark = self._new_mark()

    def _read_more(self) -> None:
        """Put the tokens of the next batch behind those that no row has had yet."""
        self._forget_used()
        self._mark = self._new_mark()
        batch = next(self._batches, None) or self._next_epoch()
        tokens, counts = self._encoder(batch.pieces)
        stops = len(self._tokens) + np.cumsum(counts)
        self._tokens = np.concatenate([self._tokens, tokens.astype(np.int32)])
        self._places += batch.places
        self._stops = np.concatenate([self._stops, stops])
        self._begins = batch.pieces.ends[-1]

    def _forget_used(self) -> None:
        if self._told < self._used:
            self._told_before = self.places()
        self._tokens = self._tokens[self._used :]
        first = int(np.searchsorted(self._stops, self._used, side="right"))
        self._places, self._stops = self._places[first:], self._stops[first:] - self._used
        self._used = self._told = 0

    def _next_epoch(self) -> Batch:
        self._documents.restore({})
        self._epoch += 1
        self._begins = True
        self._batches = self._new_batches()
        batch = next(self._batches, None)
        if batch is None:
            raise DataError(
                "The data holds no text, or none that can be read another time. Standard input "
                "cannot: let the run end with its first epoch, or train on files."
            )
        return batch

    def _new_batches(self) -> Iterator[Batch]:
        return batches(self._documents, _CHARACTERS, begins=self._begins)

    def _new_mark(self) -> dict[str, Any]:
        return {
            "documents": self._documents.state(),
            "epoch": self._epoch,
            "begins": self._begins,
            "tokens": self._tokens.tolist(),
            "places": [list(place) for place in self._places],
            "stops": self._stops.tolist(),
        }
