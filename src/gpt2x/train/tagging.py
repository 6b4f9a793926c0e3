"""Tagging: a label for each word, such as the entity that it is part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.corpus import Record
from gpt2x.errors import DataError, listed
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train import labels, metrics
from gpt2x.train.arguments import TagArguments
from gpt2x.train.engine import Inputs
from gpt2x.train.examples import Example, Examples
from gpt2x.train.labelled import Encoded, Labelled, LabelledJob, LabelledTask
from gpt2x.weights.table import Head


class TaggingTask(LabelledTask):
    """The task of tagging; W columns, C labels, logits [W, C] for each text.

    A word has the label of its first token.
    """

    def labels(self, inputs: Inputs) -> np.ndarray:
        return (inputs["labels"] != IGNORE_INDEX).sum(axis=1)

    def scores(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[str, float]:
        found = [self._tags(example, row) for example, row in zip(examples, logits, strict=True)]
        # Words that were cut off have no prediction.
        read = [[tag for tag in row if tag is not None] for row in found]
        names = self._config.id2label
        targets = [
            [names[example.target[place]] for place in example.words if place is not None]
            for example in examples
        ]
        words = sum(map(len, read))
        counts = {"words": words, "truncated_words": sum(map(len, found)) - words}
        return {**metrics.of_tags(targets, read), **counts}

    def prediction(self, example: Example, logits: np.ndarray) -> dict[str, Any]:
        return {"predictions": self._tags(example, logits)}

    def _tags(self, example: Example, logits: np.ndarray) -> list[str | None]:
        """Return the label of each word, None for those that were cut off."""
        best = logits.argmax(axis=-1)
        names = self._config.id2label
        return [None if place is None else names[int(best[place])] for place in example.words]


class TaggingJob(LabelledJob):
    """Training of a tagger."""

    head: ClassVar[Head] = Head.TOKEN_CLASSIFICATION
    label_columns: ClassVar[tuple[str, ...]] = ("ner_tags", "tags", "labels")
    # So that the first word of a text has the tokens that it has in the middle of one.
    tokenizer_options: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}
    libraries: ClassVar[tuple[str, ...]] = (*LabelledJob.libraries, "seqeval.metrics")

    _arguments: TagArguments

    def parsed(self, record: Record, label: Any) -> Labelled:
        column = self._arguments.text_column
        value = labels.parsed_list(record.value(column))
        words = Record({column: value}, record.place).words(column)
        if not words:
            raise record.place.error(f"{column!r} has no words")
        label = labels.parsed_list(label)
        tags = label.split() if isinstance(label, str) else label
        shown = {column: words} if tags is None else {column: words, "labels": tags}
        return Labelled((words,), tags, record.place, shown)

    def described(self, training: Sequence[Labelled], trained: GPT2Config | None) -> dict[str, Any]:
        names = {name for one in training for name in _names(one) or ()}
        if len(names) < 2:
            raise DataError(
                f"The training data has no labels, or one alone ({listed(names) or 'none'}); a "
                "tagger needs lists of several texts or numbers."
            )
        return labels.numbered(names, trained)

    def target(self, labelled: Labelled, config: GPT2Config) -> list[int]:
        """Return the label of each word."""
        (words,) = labelled.texts
        names = _names(labelled)
        if names is not None:
            return labels.ids_of(names, config, labelled.place)
        if isinstance(labelled.label, list) and len(labelled.label) != len(words):
            raise labelled.place.error(f"has {len(words)} words, but {len(labelled.label)} labels")
        raise labelled.place.error(
            f"the labels are {labelled.label!r:.40}, not a list of texts or numbers"
        )

    def example(
        self, labelled: Labelled, encoded: Encoded, target: Any, config: GPT2Config
    ) -> Example:
        (words,) = labelled.texts
        # Any will do for predictions, whose loss is not used.
        tags = [0] * len(words) if target is None else target
        firsts: dict[int | None, int] = {}
        for position, word in enumerate(encoded.word_ids):
            firsts.setdefault(word, position)
        of_tokens = [
            tags[word]
            if word is not None and (self._arguments.label_all_tokens or firsts[word] == position)
            else IGNORE_INDEX
            for position, word in enumerate(encoded.word_ids)
        ]
        places = [firsts.get(word) for word in range(len(words))]
        return Example(encoded.input_ids, of_tokens, labelled.place, labelled.shown, places)

    def rows(self, examples: Sequence[Example], config: GPT2Config, max_length: int) -> Examples:
        return Examples(
            examples,
            max_length=max_length,
            pad_token_id=self.tokenizer.pad_token_id,
            dtype=np.int32,
            target_padding=IGNORE_INDEX,
        )

    def make_task(self, config: GPT2Config, validation: Examples | None) -> LabelledTask:
        return TaggingTask(self.tokenizer, config, validation)

    def counts(self, examples: Sequence[Example], cut: int) -> dict[str, int]:
        words = [place for example in examples for place in example.words]
        return {"texts": len(examples), "words": len(words), "truncated_words": words.count(None)}


def _names(labelled: Labelled) -> list[str] | None:
    """Return the names of labels; None if they are not one for each word."""
    (words,) = labelled.texts
    if not isinstance(labelled.label, list) or len(labelled.label) != len(words):
        return None
    return labels.names_of(labelled.label)
