"""The data of language modelling: rows of tokens, out of files or of a data set with a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gpt2x.corpus import OnBad, find_files
from gpt2x.errors import InvalidInputError
from gpt2x.train.arguments import LMArguments
from gpt2x.train.data import (
    Blocks,
    DatasetStream,
    Documents,
    FileStream,
    StreamedBlocks,
    TokenCorpus,
    load_named,
    prepare,
    prepare_dataset,
)
from gpt2x.train.job import Data
from gpt2x.train.resuming import DATA

# Splits of a data set to evaluate with, the first that there is.
_VALIDATION_SPLITS = ("validation", "valid", "dev", "test")


class LMData(NamedTuple):
    """Reads the data of a run.

    Attributes:
        arguments: the run's.
        tokenizer: of the model.
        block_size: tokens of a row.
        on_bad: is called with the error of each record that cannot be used.
    """

    arguments: LMArguments
    tokenizer: Any
    block_size: int
    on_bad: OnBad

    def read(self) -> Data:
        """Return the rows, or a stream of them, and what cannot change while a run goes on."""
        a = self.arguments
        settings: dict[str, Any] = {"block_size": self.block_size, "packing": a.packing}
        if a.streaming:
            validation = self._corpus(a.validation_file) if a.validation_file else None
            settings[DATA] = self._streamed()
            return Data(self._stream(), self._rows(validation), settings)
        train, validation = self._corpora()
        if validation is None and a.validation_split_percentage:
            percentage = a.validation_split_percentage
            train, validation = train.split(percentage, whole_documents=not a.packing)
        settings |= {"tokens": len(train), DATA: train.fingerprint()}
        return Data(self._rows(train), self._rows(validation), settings)

    def _corpora(self) -> tuple[TokenCorpus, TokenCorpus | None]:
        """Return the corpora of training and, if it is one of its own, of evaluation."""
        a = self.arguments
        validation = self._corpus(a.validation_file) if a.validation_file else None
        if a.dataset_name is None:
            return self._corpus(a.train_file), validation
        splits = load_named(a.dataset_name, a.dataset_config_name)
        names = [name for name in _VALIDATION_SPLITS if name in splits]
        if names and validation is None and not a.validation_split_percentage:
            validation = self._split(splits, names[0])
        return self._split(splits, "train"), validation

    def _corpus(self, files: list[str]) -> TokenCorpus:
        return prepare(files, self.tokenizer, **self._options())

    def _split(self, splits: Any, name: str) -> TokenCorpus:
        dataset = self.arguments.dataset_name or ""
        return prepare_dataset(splits[name], dataset, self.tokenizer, **self._options())

    def _options(self) -> dict[str, Any]:
        a = self.arguments
        return {
            "folder": Path(a.tokens_dir or Path(a.output_dir, "tokens")),
            "text_column": a.text_column,
            "processes": a.preprocessing_num_workers,
            "on_bad": self.on_bad,
        }

    def _streamed(self) -> list[Any]:
        """Return what stands for the data of a stream, whose content is not known before."""
        a = self.arguments
        if a.dataset_name is not None:
            return [a.dataset_name, a.dataset_config_name, a.text_column]
        paths = [Path(name) for name in find_files(a.train_file)]
        sizes = [path.stat().st_size if path.is_file() else None for path in paths]
        return [[path.name for path in paths], sizes, a.text_column]

    def _stream(self) -> StreamedBlocks:
        a = self.arguments
        options: dict[str, Any] = {"text_column": a.text_column, "on_bad": self.on_bad}
        documents: FileStream | DatasetStream
        if a.dataset_name is None:
            documents = FileStream(a.train_file, **options)
        else:
            splits = load_named(a.dataset_name, a.dataset_config_name, streaming=True)
            documents = DatasetStream(splits["train"], a.dataset_name, **options)
        return StreamedBlocks(documents, self.tokenizer, self.block_size)

    def _rows(self, corpus: TokenCorpus | None) -> Any:
        """Return the rows of a corpus, None of None."""
        if corpus is None:
            return None
        if self.arguments.packing:
            return Blocks(corpus, self.block_size)
        return Documents(corpus, self.block_size, self.tokenizer.eos_token_id)


def check_sources(a: LMArguments) -> None:
    """Raise InvalidInputError unless it is clear what to train on."""
    if bool(a.train_file) == (a.dataset_name is not None):
        raise InvalidInputError("Pass train_file or dataset_name, one of them.")
    if not a.streaming:
        return
    if a.max_steps < 1:
        raise InvalidInputError("A stream has no known length: pass max_steps.")
    if not a.packing:
        raise InvalidInputError("Streamed documents are packed; leave out packing or streaming.")
    if a.validation_split_percentage:
        raise InvalidInputError(
            "A stream cannot be divided: pass validation_file in place of "
            "validation_split_percentage."
        )
