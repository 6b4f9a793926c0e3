"""The kinds of training, by their names."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from gpt2x.train.arguments import ClassifyArguments, LMArguments, TagArguments, TrainingArguments


class Kind(NamedTuple):
    """A kind of training.

    Attributes:
        arguments: their class.
        help: what it does.
        job: module and name of its `gpt2x.train.job.Job`, which is imported when it is needed.
    """

    arguments: type[TrainingArguments]
    help: str
    job: str

    def make_job(self, *values: Any) -> Any:
        """Return the job made of these values."""
        module, _, name = self.job.rpartition(".")
        return getattr(import_module(module), name)(*values)


TASKS: dict[str, Kind] = {
    "lm": Kind(
        LMArguments,
        "Train a language model on texts: a new one, or one that there is.",
        "gpt2x.train.lm.LMJob",
    ),
    "classify": Kind(
        ClassifyArguments,
        "Train a classifier of texts: one label, several labels, or a number.",
        "gpt2x.train.classification.ClassificationJob",
    ),
    "tag": Kind(
        TagArguments,
        "Train a tagger of words: named entities, parts of speech.",
        "gpt2x.train.tagging.TaggingJob",
    ),
}
