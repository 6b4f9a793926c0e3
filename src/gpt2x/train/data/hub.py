"""Documents of the library `datasets`: of a data set on the hub, or in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from gpt2x.backends import require_library
from gpt2x.corpus import Piece, Place, Record, record_documents
from gpt2x.corpus.records import OnBad, raised
from gpt2x.errors import InvalidInputError
from gpt2x.train.data.preparation import prepare_pieces
from gpt2x.train.data.store import TokenCorpus


def load_named(
    name: str, config_name: str | None = None, *, streaming: bool = False
) -> Mapping[str, Any]:
    """Return the splits of a data set by their names, as `datasets.load_dataset` gives them.

    Code of the data set is never run.

    Args:
        name: on the hub, or a folder of files.
        config_name: which of its configurations, if it has several.
        streaming: whether its records are read as they are needed, instead of all first.

    Returns:
        splits, "train" among them: each a `Dataset`, or an `IterableDataset` for a stream.

    Raises:
        InvalidInputError: if it cannot be found or read, or has no "train" split.
        MissingBackendError: if `datasets` is not installed.
    """
    library = require_library("datasets", wanted_for="reading a data set by name", extra="train")
    try:
        splits = library.load_dataset(name, config_name, streaming=streaming)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise InvalidInputError(f"The data set {name!r} cannot be loaded: {error}") from error
    if "train" not in splits:
        raise InvalidInputError(
            f"The data set {name!r} has no split 'train', but {', '.join(map(repr, splits))}."
        )
    return splits


def prepare_dataset(
    dataset: Any,
    name: str,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    text_column: str = "text",
    **options: Any,
) -> TokenCorpus:
    """Encode the records of a `datasets.Dataset` into a corpus on the disk; see `prepare`.

    Args:
        dataset: its records are read in order.
        name: of the data set, for the places of documents.
        text_column: the column that has the text.
        tokenizer, folder, options, and what is raised: see `prepare_pieces`.
    """
    return prepare_pieces(
        partial(_documents, dataset, name, text_column),
        tokenizer,
        folder,
        # By this fingerprint `datasets` itself finds its results again.
        identity=[name, dataset._fingerprint, text_column],
        names=[name],
        **options,
    )


class DatasetStream:
    """The documents of a `datasets.IterableDataset`, for `StreamedBlocks`.

    A state has the `state_dict` of the data set, so that going on reads few records again.

    Args:
        dataset: see `load_named`.
        name: of the data set, for the places of documents.
        text_column: the column that has the text.
        on_bad: is called with the error of each record that cannot be used, which is then left
            out; by default the error is raised.
    """

    def __init__(
        self, dataset: Any, name: str, *, text_column: str = "text", on_bad: OnBad | None = None
    ) -> None:
        self._dataset, self._name = dataset, name
        self._column, self._on_bad = text_column, on_bad or raised
        self._begin = dataset.state_dict()
        self.restore({})

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def state(self) -> dict[str, Any]:
        return {"dataset": self._before, "records": self._records, "pieces": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        # The state of the data set before a record, the number of records before it, and the
        # pieces that were taken of it.
        self._before: dict[str, Any] = state.get("dataset", self._begin)
        self._records: int = state.get("records", 0)
        self._taken: int = state.get("pieces", 0)
        self._dataset.load_state_dict(self._before)
        self._pieces = self._read()

    def _read(self) -> Iterator[Piece]:
        skip = self._taken
        for fields in self._dataset:
            record = Record(fields, Place(self._name, self._records + 1, "record"))
            documents = record_documents([record], self._column, self._on_bad)
            for piece in islice(documents, skip, None):
                self._taken += 1
                yield piece
            skip = self._taken = 0
            self._records += 1
            self._before = self._dataset.state_dict()


def _documents(dataset: Any, name: str, column: str, on_bad: OnBad) -> Iterator[Piece]:
    records = (
        Record(fields, Place(name, number, "record")) for number, fields in enumerate(dataset, 1)
    )
    return record_documents(records, column, on_bad)
