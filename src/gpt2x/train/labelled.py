"""Training with labels, whatever the head: from records to examples, and on to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpt2x import backends
from gpt2x.checkpoint.source import open_source
from gpt2x.config import GPT2Config
from gpt2x.config.lora import ADAPTER_CONFIG_NAME
from gpt2x.corpus import OnBad, Place, Record, read_records
from gpt2x.data import EMBEDDED_MODEL
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.tokenization import GPT2TokenizerFast
from gpt2x.train.arguments import LabelledArguments
from gpt2x.train.engine import Inputs
from gpt2x.train.examples import Example, Examples
from gpt2x.train.initial import write_initial
from gpt2x.train.job import Data, Prediction, give_adapter, load_model, row_length
from gpt2x.train.loop import Predictions
from gpt2x.train.resuming import DATA
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head, parameter_shapes


class Labelled(NamedTuple):
    """A record as it was read.

    Attributes:
        texts: what the tokenizer encodes: a text, two texts, or words.
        label: as the record has it, None if it has none.
        place: where it stands.
        shown: what its line of predictions says besides the prediction.
    """

    texts: tuple[Any, ...]
    label: Any
    place: Place
    shown: Mapping[str, Any]


class Encoded(NamedTuple):
    """Tokens of texts.

    Attributes:
        input_ids: as many as a row can hold.
        word_ids: for each the number of its word, None for a special token.
        is_cut: whether there were more.
    """

    input_ids: list[int]
    word_ids: list[int | None]
    is_cut: bool


class LabelledTask(ABC):
    """The task of a head that learns labels; see `gpt2x.train.loop.Task`.

    Args:
        tokenizer: of the model.
        config: of the model, with the names of labels.
        validation: what is evaluated with, if anything.
    """

    needs_logits = True
    sample = None

    def __init__(self, tokenizer: Any, config: GPT2Config, validation: Examples | None) -> None:
        self._tokenizer, self._config, self._validation = tokenizer, config, validation

    @abstractmethod
    def labels(self, inputs: Inputs) -> np.ndarray:
        """Return how many labels of each row count in the loss: int [rows]."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[str, float]:
        """Return how well the logits of examples, each [...], fit their targets."""

    @abstractmethod
    def prediction(self, example: Example, logits: np.ndarray) -> dict[str, Any]:
        """Return what the logits of an example say, for a line of JSON."""

    def metrics(self, loss: float, predictions: Predictions) -> dict[str, float]:
        logits = [row for _, batch in predictions for row in batch]
        scores = self.scores(self._validation.examples, logits) if self._validation else {}
        return {"eval_loss": loss, **{f"eval_{name}": value for name, value in scores.items()}}

    def save_tokenizer(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)
        if (folder / ADAPTER_CONFIG_NAME).is_file():
            # The names of the labels, which the model of the adapter does not have.
            self._config.save_pretrained(folder)


class LabelledJob(ABC):
    """Training with labels, for `gpt2x.train.run`; see `gpt2x.train.job.Job`.

    Raises MissingBackendError at once without the libraries that measure predictions.
    """

    head: ClassVar[Head]
    #: Columns that may hold the labels, if the user names none.
    label_columns: ClassVar[tuple[str, ...]]
    tokenizer_options: ClassVar[Mapping[str, Any]] = {}
    libraries: ClassVar[tuple[str, ...]] = ("sklearn.metrics", "scipy.special")

    task: LabelledTask

    def __init__(self, arguments: Any, backend: str, resumed: Path | None, on_bad: OnBad) -> None:
        self._arguments: LabelledArguments = arguments
        self._on_bad = on_bad
        for library in self.libraries:
            backends.require_library(library, wanted_for="measuring predictions", extra="train")
        self._model = arguments.model_name_or_path or EMBEDDED_MODEL
        name = resumed or arguments.tokenizer_name or self._model
        self.tokenizer = _with_padding(
            GPT2TokenizerFast.from_pretrained(name, **self.tokenizer_options)
        )

    # --- what a kind of labels brings ---

    @property
    def empty_label(self) -> Any:
        """What a column stands for that holds nothing; None for no label."""
        return None

    @abstractmethod
    def parsed(self, record: Record, label: Any) -> Labelled:
        """Return a record with its label; raises DataError if it cannot be used."""

    @abstractmethod
    def described(self, training: Sequence[Labelled], trained: GPT2Config | None) -> dict[str, Any]:
        """Return the fields of the config that labels make.

        Args:
            training: the training data.
            trained: the config of the model to start from, if it has such a head.
        """

    @abstractmethod
    def target(self, labelled: Labelled, config: GPT2Config) -> Any:
        """Return what a label is to the model; raises DataError for one that cannot be used."""

    @abstractmethod
    def example(
        self, labelled: Labelled, encoded: Encoded, target: Any, config: GPT2Config
    ) -> Example:
        """Return a row; its target is None if only its prediction is wanted."""

    @abstractmethod
    def rows(self, examples: Sequence[Example], config: GPT2Config, max_length: int) -> Examples:
        """Return rows for the loop."""

    @abstractmethod
    def make_task(self, config: GPT2Config, validation: Examples | None) -> LabelledTask:
        """Return the task."""

    @abstractmethod
    def counts(self, examples: Sequence[Example], cut: int) -> dict[str, int]:
        """Return what the results say of the training data, of which `cut` rows were too long."""

    # --- the model ---

    def start(self, folder: Path, checkpoint: Path | None) -> str | Path:
        if checkpoint is not None and self._arguments.lora_r is None:
            return checkpoint
        with open_source(self._model) as source:
            trained = source.config if source.head is self.head else None
            described = self.described(self._training, trained)
            config = GPT2Config.from_dict(
                {
                    **source.config.to_dict(),
                    "pad_token_id": self.tokenizer.pad_token_id,
                    **described,
                }
            )
            known = self._known(source.checkpoint, config)
            write_initial(folder, config, self.head, self._arguments.seed, known)
        return folder

    def load(self, backend: str, start: str | Path, checkpoint: Path | None) -> Any:
        grows = self._arguments.lora_r is None
        model = load_model(backend, self.head, start, self.tokenizer, grows=grows)
        give_adapter(model, self._arguments, checkpoint)
        return model

    def _known(
        self, checkpoint: Mapping[str, LazyTensor], config: GPT2Config
    ) -> dict[str, LazyTensor]:
        """Return the body's tensors, and the head's if they have the shapes of this one."""
        shapes = parameter_shapes(config, self.head)
        body = parameter_shapes(config, Head.NONE)
        found = {name: checkpoint[name] for name in body if name in checkpoint}
        plan = plan_load(found, config, Head.NONE, name=str(self._model))
        head = {
            name: checkpoint[name]
            for name, shape in shapes.items()
            if name not in body and name in checkpoint and checkpoint[name].shape == shape
        }
        return plan.tensors | head

    # --- the data ---

    def data(self, config: GPT2Config) -> Data:
        arguments = self._arguments
        size = row_length("max_seq_length", arguments.max_seq_length, config)
        train, cut = self._examples(self._training, config, size)
        validation = self._evaluated(arguments.validation_file, config, size)
        test = self._evaluated(arguments.test_file, config, size, needs_labels=False)
        self.task = self.make_task(config, validation)
        rows = self.rows(train, config, size)
        settings = {"rows": len(train), "max_seq_length": size, "labels": [*config.label2id]}
        settings[DATA] = rows.fingerprint()
        return Data(
            rows,
            validation,
            settings,
            counts=self.counts(train, cut),
            prediction=self._prediction(validation, test),
        )

    @cached_property
    def _training(self) -> list[Labelled]:
        return self._read(self._arguments.train_file)

    def _evaluated(
        self, files: list[str], config: GPT2Config, size: int, *, needs_labels: bool = True
    ) -> Examples | None:
        if not files:
            return None
        labelled = self._read(files, needs_labels)
        return self.rows(self._examples(labelled, config, size, needs_labels)[0], config, size)

    def _read(self, files: Iterable[str], needs_labels: bool = True) -> list[Labelled]:
        """Return the records that can be used; the errors of others go to `on_bad`.

        Raises DataError if there is none.
        """
        found: list[Labelled] = []
        file_format = self._arguments.file_format
        for record in read_records(files, file_format=file_format, on_bad=self._on_bad):
            try:
                found.append(self.parsed(record, self._label(record, needs_labels)))
            except DataError as error:
                self._on_bad(error)
        if not found:
            raise DataError(f"{', '.join(files)}: has no record that can be used.")
        return found

    def _label(self, record: Record, is_needed: bool) -> Any:
        """Return the label of a record, None if it has none and needs none."""
        named = self._arguments.label_column
        columns = self.label_columns if named is None else (named,)
        column = next((name for name in columns if name in record.fields), columns[0])
        if not is_needed and column not in record.fields:
            return None
        value = record.value(column)
        if value is None or value == "":
            value = self.empty_label
        if value is None and is_needed:
            raise record.place.error(f"{column!r} is empty")
        return value

    def _examples(
        self,
        labelled: Sequence[Labelled],
        config: GPT2Config,
        size: int,
        needs_labels: bool = True,
    ) -> tuple[list[Example], int]:
        """Return rows, and how many of them were too long."""
        found, cut = [], 0
        for one, encoded in zip(labelled, self._encoded(labelled, size), strict=True):
            target = None
            try:
                target = self.target(one, config)
            except DataError as error:
                if needs_labels:
                    self._on_bad(error)
                    continue
            example = self.example(one, encoded, target, config)
            found.append(example._replace(is_labelled=target is not None))
            cut += encoded.is_cut
        return found, cut

    def _encoded(self, labelled: Sequence[Labelled], size: int) -> Iterator[Encoded]:
        """Yield the tokens of each record's texts."""
        options = {"is_split_into_words": self.head is Head.TOKEN_CLASSIFICATION}
        texts = [[*column] for column in zip(*(one.texts for one in labelled), strict=True)]
        every = self.tokenizer(*texts, **options, verbose=False)
        for number, ids in enumerate(every["input_ids"]):
            if len(ids) <= size:
                yield Encoded(ids, every.word_ids(number), is_cut=False)
                continue
            one = [[column[number]] for column in texts]
            short = self.tokenizer(*one, **options, truncation=True, max_length=size)
            yield Encoded(short["input_ids"][0], short.word_ids(0), is_cut=True)

    # --- predictions ---

    def _prediction(self, validation: Examples | None, test: Examples | None) -> Prediction | None:
        """Return what to predict: the test data, or else the validation data."""
        rows = validation if test is None else test
        if rows is None:
            return None
        examples = rows.examples
        is_scored = rows is test and all(example.is_labelled for example in examples)

        def lines(logits: Sequence[np.ndarray]) -> list[dict[str, Any]]:
            each = zip(examples, logits, strict=True)
            return [{**one.shown, **self.task.prediction(one, row)} for one, row in each]

        def scores(logits: Sequence[np.ndarray]) -> dict[str, float]:
            found = self.task.scores(examples, logits) if is_scored else {}
            return {f"test_{name}": value for name, value in found.items()}

        return Prediction(rows, lines, scores)


def _with_padding(tokenizer: Any) -> Any:
    """Return a tokenizer that has a padding token: its own, or else its end of a text.

    Raises InvalidInputError if it has neither.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InvalidInputError(
                "The tokenizer has neither a pad_token nor an eos_token, and rows of different "
                "lengths need one; pass the tokenizer_name of another, or add one to it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
