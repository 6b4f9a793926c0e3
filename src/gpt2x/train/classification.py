"""Classification of texts: one label of several, several labels at once, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.corpus import Record
from gpt2x.errors import DataError, listed
from gpt2x.train import labels, metrics
from gpt2x.train.arguments import ClassifyArguments
from gpt2x.train.engine import Inputs
from gpt2x.train.examples import Example, Examples
from gpt2x.train.labelled import Encoded, Labelled, LabelledJob, LabelledTask
from gpt2x.weights.table import Head


class ClassificationTask(LabelledTask):
    """The task of classification; C labels, logits [C] for each text."""

    def labels(self, inputs: Inputs) -> np.ndarray:
        return np.ones(len(inputs["labels"]), np.int64)

    def scores(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[str, float]:
        targets = np.array([example.target for example in examples])
        found = np.stack(logits)  # [N, C]
        problem = self._config.problem_type
        if problem == labels.REGRESSION:
            return metrics.of_numbers(targets, found[:, 0])
        if problem == labels.MULTI_LABEL:
            return metrics.of_several_labels(targets.astype(np.int64), (found > 0).astype(np.int64))
        return metrics.of_single_labels(targets, found.argmax(axis=1))

    def prediction(self, example: Example, logits: np.ndarray) -> dict[str, Any]:
        from scipy.special import expit, softmax

        problem, names = self._config.problem_type, self._config.id2label
        if problem == labels.REGRESSION:
            return {"prediction": float(logits[0])}
        is_multi = problem == labels.MULTI_LABEL
        chances = expit(logits) if is_multi else softmax(logits)
        found = [names[i] for i in np.flatnonzero(logits > 0)]
        return {
            "prediction": found if is_multi else names[int(logits.argmax())],
            "scores": {names[i]: float(chance) for i, chance in enumerate(chances)},
        }


class ClassificationJob(LabelledJob):
    """Training of a classifier."""

    head: ClassVar[Head] = Head.SEQUENCE_CLASSIFICATION
    label_columns: ClassVar[tuple[str, ...]] = ("label", "labels")

    _arguments: ClassifyArguments

    @property
    def empty_label(self) -> list[str] | None:
        return [] if self._arguments.problem_type == labels.MULTI_LABEL else None

    def parsed(self, record: Record, label: Any) -> Labelled:
        arguments = self._arguments
        columns = [name for name in (arguments.text_column, arguments.text_pair_column) if name]
        texts = {name: record.text(name) for name in columns}
        if not any(texts.values()):
            raise record.place.error("has no text")
        label = labels.parsed_list(label)
        shown = texts if label is None else {**texts, "label": label}
        return Labelled((*texts.values(),), label, record.place, shown)

    def described(self, training: Sequence[Labelled], trained: GPT2Config | None) -> dict[str, Any]:
        problem = self._arguments.problem_type
        problem = problem or labels.problem_of(one.label for one in training)
        if problem == labels.REGRESSION:
            return {"problem_type": problem, "id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        names = {name for one in training for name in _names(one.label, problem) or ()}
        if len(names) < (2 if problem == labels.SINGLE_LABEL else 1):
            raise DataError(
                f"The training data has no labels, or one alone ({listed(names) or 'none'}); a "
                "classifier needs several."
            )
        return {"problem_type": problem, **labels.numbered(names, trained)}

    def target(self, labelled: Labelled, config: GPT2Config) -> int | float | list[float]:
        problem, label = config.problem_type, labelled.label
        if problem == labels.REGRESSION:
            number = labels.number_of(label)
            if number is None:
                raise labelled.place.error(f"the label is {label!r:.40}, not a number")
            return number
        names = _names(label, problem)
        if names is None:
            wanted = "a text or number" if problem == labels.SINGLE_LABEL else "a list of labels"
            raise labelled.place.error(f"the label is {label!r:.40}, not {wanted}")
        ids = labels.ids_of(names, config, labelled.place)
        if problem == labels.SINGLE_LABEL:
            return ids[0]
        return [float(index in ids) for index in range(config.num_labels)]

    def example(
        self, labelled: Labelled, encoded: Encoded, target: Any, config: GPT2Config
    ) -> Example:
        if target is None:  # any will do: the loss of predictions is not used
            is_multi = config.problem_type == labels.MULTI_LABEL
            target = [0.0] * config.num_labels if is_multi else 0
        return Example(encoded.input_ids, target, labelled.place, labelled.shown)

    def rows(self, examples: Sequence[Example], config: GPT2Config, max_length: int) -> Examples:
        is_single = config.problem_type == labels.SINGLE_LABEL
        return Examples(
            examples,
            max_length=max_length,
            pad_token_id=self.tokenizer.pad_token_id,
            dtype=np.int32 if is_single else np.float32,
        )

    def make_task(self, config: GPT2Config, validation: Examples | None) -> LabelledTask:
        return ClassificationTask(self.tokenizer, config, validation)

    def counts(self, examples: Sequence[Example], cut: int) -> dict[str, int]:
        return {"texts": len(examples), "truncated_texts": cut}


def _names(label: Any, problem: str | None) -> list[str] | None:
    """Return the names in a label; None if it is not one of this problem."""
    if problem == labels.SINGLE_LABEL:
        return labels.names_of([label])
    if isinstance(label, str):  # of CSV
        label = [part.strip() for part in label.split(",")]
    return labels.names_of(label) if isinstance(label, list) else None
