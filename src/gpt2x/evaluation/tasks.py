"""Tasks that are judged by the likelihood of texts after a context."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from gpt2x.corpus import Record
from gpt2x.corpus.records import OnBad, raised
from gpt2x.errors import DataError
from gpt2x.evaluation.scoring import Row, Scorer, Scores, exp

T = TypeVar("T")


def last_word(
    model: Any,
    tokenizer: Any,
    records: Iterable[Record],
    *,
    text_column: str = "text",
    batch_size: int | None = None,
    on_bad: OnBad | None = None,
) -> dict[str, float]:
    """Measure how often a model knows the last word of a text (LAMBADA, arXiv:1606.06031).

    Args:
        model: a language model of any backend.
        tokenizer: its tokenizer.
        records: each has a text of at least two words.
        text_column: the column that has it.
        batch_size: texts that the model reads at once; see `Scorer`.
        on_bad: is called with the error of each record that cannot be used, which is then left
            out; by default the error is raised.

    Returns:
        `accuracy`, the share of texts whose last word is what greedy search would write;
        `perplexity` of the last words, exp of the mean of their negative log-probabilities; and
        the count of `examples`.

    Raises:
        DataError: for a bad record, or if there are none.
    """

    def read(record: Record) -> tuple[None, list[Row]]:
        text = record.text(text_column).rstrip()
        context = text[: len(text) - len(text.split()[-1])].rstrip() if text else ""
        if not context:
            raise record.place.error(f"{text_column!r} has no word before its last")
        return None, [continuation(tokenizer, context, text[len(context) :], scorer.n_positions)]

    scorer = Scorer(model, batch_size)
    correct, losses = [], []
    for _, (row,) in _scored(scorer, records, read, on_bad):
        correct.append(row.is_likeliest.all())
        losses.append(-row.log_probabilities.sum())
    return {
        "accuracy": float(np.mean(correct)),
        "perplexity": exp(float(np.mean(losses))),
        "examples": len(correct),
    }


def multiple_choice(
    model: Any,
    tokenizer: Any,
    records: Iterable[Record],
    *,
    context_column: str = "ctx",
    choices_column: str = "endings",
    label_column: str = "label",
    batch_size: int | None = None,
    on_bad: OnBad | None = None,
) -> dict[str, float]:
    """Measure how often the right one of several endings is the likeliest (HellaSwag's form).

    The columns are called as in HellaSwag (arXiv:1905.07830). A space is put between the context
    and an ending that does not begin with one.

    Args:
        model: a language model of any backend.
        tokenizer: its tokenizer.
        records: each has a context, endings (a list of at least two), and the number of the right
            one from 0.
        context_column, choices_column, label_column: the columns that have them.
        batch_size: endings that the model reads at once; see `Scorer`.
        on_bad: see `last_word`.

    Returns:
        `accuracy` by the log-probabilities of endings; `accuracy_per_byte` and
        `accuracy_per_token` by these divided by the length of each, which does not favour short
        ones; and the count of `examples`.

    Raises:
        DataError: for a bad record, or if there are none.
    """

    def read(record: Record) -> tuple[tuple[int, list[int]], list[Row]]:
        context = record.text(context_column).rstrip()
        endings, label = _endings(record, choices_column), _label(record, label_column)
        if not 0 <= label < len(endings):
            raise record.place.error(f"{label_column!r} is {label}, of {len(endings)} endings")
        rows = [continuation(tokenizer, context, text, scorer.n_positions) for text in endings]
        return (label, [len(text.encode()) for text in endings]), rows

    scorer = Scorer(model, batch_size)
    right: list[list[bool]] = []
    for (label, lengths), rows in _scored(scorer, records, read, on_bad):
        total = np.array([row.log_probabilities.sum() for row in rows])
        tokens = [len(row.log_probabilities) for row in rows]
        measures = (total, total / lengths, total / tokens)
        right.append([int(values.argmax()) == label for values in measures])
    accuracy, per_byte, per_token = np.mean(right, axis=0).tolist()
    return {
        "accuracy": accuracy,
        "accuracy_per_byte": per_byte,
        "accuracy_per_token": per_token,
        "examples": len(right),
    }


def continuation(tokenizer: Any, context: str, text: str, n_positions: int) -> Row:
    """Return the row that scores a text after a context, whose beginning is cut off if need be.

    The two are tokenised together, as they stand in a text. An empty context is the token that
    ends documents.
    """
    before = _ids(tokenizer, context)
    ids = _ids(tokenizer, context + text)
    if not before:
        before = [tokenizer.eos_token_id]
        ids = before + ids
    cut = max(0, len(ids) - n_positions - 1)
    return Row(ids[cut:], max(1, len(before) - cut))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _endings(record: Record, column: str) -> list[str]:
    endings = record.fields.get(column)
    if not isinstance(endings, list | tuple) or len(endings) < 2:
        raise record.place.error(f"{column!r} must be a list of at least two endings")
    if not all(isinstance(text, str) and text.strip() for text in endings):
        raise record.place.error(f"{column!r} must hold texts that are not empty")
    return [text if text[0].isspace() else f" {text}" for text in endings]


def _label(record: Record, column: str) -> int:
    try:
        return int(record.fields[column])
    except (KeyError, TypeError, ValueError):
        raise record.place.error(f"{column!r} must be the number of the right ending") from None


def _scored(
    scorer: Scorer,
    records: Iterable[Record],
    read: Callable[[Record], tuple[T, list[Row]]],
    on_bad: OnBad | None,
) -> Iterator[tuple[T, list[Scores]]]:
    """Yield what `read` says of each record, and the scores of its rows.

    Raises DataError if there are no records.
    """
    waiting: deque[tuple[T, int]] = deque()

    def rows() -> Iterator[Row]:
        for record in records:
            try:
                about, made = read(record)
            except DataError as error:
                (on_bad or raised)(error)
                continue
            waiting.append((about, len(made)))
            yield from made

    scores = scorer.scores(rows())
    is_empty = True
    for first in scores:
        is_empty = False
        about, size = waiting.popleft()
        yield about, [first, *islice(scores, size - 1)]
    if is_empty:
        raise DataError("The files hold no example.")
