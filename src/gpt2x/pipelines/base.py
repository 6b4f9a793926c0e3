"""What every pipeline does: texts to tokens, tokens through the model in batches, answers.

B rows of a batch, T tokens of a row, W columns of the batch.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gpt2x import backends
from gpt2x.errors import InvalidInputError, check_count
from gpt2x.pipelines.progress import Progress, shown
from gpt2x.weights.table import Head

#: Arrays that a tokenizer makes and a model reads.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class Piece:
    """One row for the model.

    Attributes:
        inputs: its arrays by the model's names, lists of T integers; `input_ids` among them.
        context: what the answer is made with.
        number: of the input that it belongs to, counted in this call.
        output: what the pipeline's `_forward` found for it.
    """

    inputs: dict[str, list[int]]
    context: Any = None
    number: int = 0
    output: Any = None

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


@dataclass
class _Item:
    """An input and its pieces, of which `waiting` have no output yet."""

    pieces: Sequence[Piece]
    waiting: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = len(self.pieces)


class Results(Iterator[Any]):
    """The answers to a stream of inputs, in their order, each computed when it is asked for.

    Its length is that of the inputs, if they have one.
    """

    def __init__(self, results: Iterator[Any], inputs: Any) -> None:
        self._results = results
        self._inputs = inputs

    def __next__(self) -> Any:
        return next(self._results)

    def __len__(self) -> int:
        return len(self._inputs)


class Pipeline(ABC):
    """A model and a tokenizer, set up for a task. Call it with texts.

    Args:
        model: a model of any backend, with the head of the task.
        tokenizer: its tokenizer.
        framework: "pt", "tf" or "flax"; it is that of the model.
        task: the name that the task was asked for with.
        device: where to run (PyTorch): a name, a `torch.device`, or the number of an accelerator,
            -1 for the CPU; None leaves the model where it is.
        batch_size: rows that the model reads at once, unless a call says otherwise.
        num_workers: has no effect.
        **options: options of the task that hold for every call.

    Raises:
        InvalidInputError: if the model lacks the head, or for a bad option.
    """

    #: The task's name.
    name: ClassVar[str]
    #: Heads that serve the task, the one to load first.
    heads: ClassVar[tuple[Head, ...]]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        framework: str | None = None,
        task: str | None = None,
        device: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **options: Any,
    ) -> None:
        own = backends.of(model)
        if framework not in (None, own):
            raise InvalidInputError(
                f"framework is {framework!r}, but the model is of {backends.get(own).title}; leave "
                "framework= out, or load the model in that framework."
            )
        if model.head not in self.heads:
            wanted = " or ".join(backends.get(own).prefix + head.value for head in self.heads)
            raise InvalidInputError(
                f"{type(model).__name__} has no head for {self.name}; that needs a {wanted}."
            )
        check_count("batch_size", batch_size, 1)
        self.framework = own
        self.task = task or self.name
        self._engine = backends.load(own, wanted_by="pipeline", module="inference")
        self.model = self._engine.place(model, device)
        self.tokenizer = tokenizer
        self._batch_size = batch_size or 1
        self._settings = self._parse(**options)

    @property
    def device(self) -> Any:
        """Where the model is; None where the framework does not say."""
        return getattr(self.model, "device", None)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        progress: Progress = False,
        **options: Any,
    ) -> Any:
        """Answer one input, a list of them, or any other iterable of them.

        Args:
            inputs: one input gives its answer, a list gives a list. A generator or a data set gives
                a `Results`, which computes while it is read.
            batch_size: rows that the model reads at once; they do not change the answers.
            num_workers: has no effect.
            progress: True shows a bar on standard error; a function is called with the number of
                answers so far and that of the inputs (None if unknown).
            **options: of the task, in place of those that the pipeline was made with.

        Raises:
            InvalidInputError: for inputs or options that cannot be used.
        """
        check_count("batch_size", batch_size, 1)
        settings = self._settings | self._parse(**options)
        rows = batch_size or self._batch_size
        if self._is_one(inputs):
            return next(self._answers([inputs], settings, rows))
        total = len(inputs) if hasattr(inputs, "__len__") else None
        answers = shown(self._answers(each(inputs), settings, rows), total, progress, self.task)
        return list(answers) if isinstance(inputs, list | tuple) else Results(answers, inputs)

    def predict(self, X: Any) -> Any:
        """Call the pipeline (scikit-learn's name for it)."""
        return self(X)

    transform = predict

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write model and tokenizer; the options are those of the model's `save_pretrained`."""
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    # --- what a task brings ---

    @abstractmethod
    def _parse(self, **options: Any) -> dict[str, Any]:
        """Check options, and return those that were given, as the other methods read them."""

    @abstractmethod
    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        """Return what the model reads of an input, at least one row."""

    @abstractmethod
    def _forward(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Iterable[Any]:
        """Run the model on the pieces of a batch, and return the output of each."""

    @abstractmethod
    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Any:
        """Return the answer to an input, whose pieces have their outputs."""

    def _is_one(self, inputs: Any) -> bool:
        """Say whether the argument of a call is one input, rather than several."""
        return isinstance(inputs, str | Mapping)

    # --- batches ---

    def _answers(
        self, inputs: Iterable[Any], settings: Mapping[str, Any], rows: int
    ) -> Iterator[Any]:
        """Yield the answers in the order of the inputs; the model reads `rows` pieces at once."""
        waiting: deque[_Item] = deque()
        batch: list[tuple[_Item, Piece]] = []
        for number, value in enumerate(inputs):
            item = _Item(self._pieces(value, settings))
            waiting.append(item)
            for piece in item.pieces:
                piece.number = number
                batch.append((item, piece))
                if len(batch) == rows:
                    self._run(batch, settings)
                    batch = []
            while waiting and not waiting[0].waiting:
                yield self._answer(waiting.popleft().pieces, settings)
        if batch:
            self._run(batch, settings)
        while waiting:
            yield self._answer(waiting.popleft().pieces, settings)

    def _run(self, batch: list[tuple[_Item, Piece]], settings: Mapping[str, Any]) -> None:
        outputs = self._forward([piece for _, piece in batch], settings)
        for (item, piece), output in zip(batch, outputs, strict=True):
            piece.output = output
            item.waiting -= 1

    def _outputs(self, pieces: Sequence[Piece]) -> Any:
        """Run the model on pieces padded on the right; its output has W columns."""
        longest = max(map(len, pieces))
        width = self._engine.width(longest, self.model.config.n_positions)
        # Question answering never returns a cache, and has no option for it.
        is_answering = self.model.head is Head.QUESTION_ANSWERING
        options = {} if is_answering else {"use_cache": False}
        return self._engine.forward(self.model, self._batch(pieces, width), **options)

    def _batch(
        self, pieces: Sequence[Piece], width: int, side: str = "right"
    ) -> dict[str, np.ndarray]:
        """Return the arrays of pieces, int64 [B, W], padded on a side; the mask is 0 there."""
        names = {name for piece in pieces for name in piece.inputs} | {"attention_mask"}
        batch = {name: np.zeros((len(pieces), width), np.int64) for name in sorted(names)}
        batch["input_ids"][:] = self._pad_token_id()
        for row, piece in enumerate(pieces):
            columns = slice(0, len(piece)) if side == "right" else slice(width - len(piece), width)
            for name, array in batch.items():
                array[row, columns] = piece.inputs.get(name, int(name == "attention_mask"))
        return batch

    def _pad_token_id(self) -> int:
        """Return the id to pad with; the mask hides it, so any id of the vocabulary will do."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None or pad >= self.model.config.vocab_size else pad

    def _piece(self, encoding: Mapping[str, Any], context: Any = None) -> Piece:
        """Return the piece of a tokenizer's lists; raise if there is no token in them."""
        if not encoding["input_ids"]:
            raise InvalidInputError(f"{self.task} cannot read a text without tokens.")
        inputs = {name: encoding[name] for name in MODEL_INPUTS if name in encoding}
        return Piece(inputs, context)


def each(inputs: Any) -> Iterator[Any]:
    """Yield the inputs of an iterable, or of what has a length and items by number."""
    if hasattr(inputs, "__iter__"):
        return iter(inputs)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[number] for number in range(len(inputs)))
    raise InvalidInputError(
        f"A pipeline takes one input, a list, or another iterable; got {inputs!r}."
    )
