"""From the scores of tokens to entities: words that belong together.

C labels.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


class AggregationStrategy(enum.Enum):
    """How tokens become entities.

    NONE leaves tokens; SIMPLE joins neighbours with the same tag; the others first give each word
    one label: that of its FIRST token, that of the AVERAGE of its tokens' scores, or that of the
    token with the MAX score.
    """

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"


@dataclass(frozen=True)
class Token:
    """A token: its scores [C], its number in its row, and the characters that it covers.

    `start` and `end` are None if the tokenizer does not know them.
    """

    word: str
    scores: np.ndarray
    index: int
    start: int | None
    end: int | None
    continues: bool

    @property
    def score(self) -> float:
        """The best of its scores."""
        return float(self.scores.max())


class Aggregator:
    """Makes entities of tokens.

    Args:
        strategy: how.
        labels: the names of the C labels.
        to_text: makes a text of the words of tokens.
    """

    def __init__(
        self,
        strategy: AggregationStrategy,
        labels: Mapping[int, str],
        to_text: Callable[[list[str]], str],
    ) -> None:
        self._strategy = strategy
        self._labels = labels
        self._to_text = to_text

    def entities(self, tokens: list[Token]) -> list[dict[str, Any]]:
        """Return the entities of a row of tokens, or the tokens themselves for NONE."""
        if self._strategy in (AggregationStrategy.NONE, AggregationStrategy.SIMPLE):
            found = [self._of_token(token) for token in tokens]
        else:
            found = [self._of_word(word) for word in _words(tokens)]
        if self._strategy is AggregationStrategy.NONE:
            return found
        return [self._of_group(group) for group in _groups(found)]

    def _of_token(self, token: Token) -> dict[str, Any]:
        return {
            "entity": self._labels[int(token.scores.argmax())],
            "score": token.score,
            "index": token.index,
            "word": token.word,
            "start": token.start,
            "end": token.end,
        }

    def _of_word(self, tokens: list[Token]) -> dict[str, Any]:
        if self._strategy is AggregationStrategy.FIRST:
            scores = tokens[0].scores
        elif self._strategy is AggregationStrategy.MAX:
            scores = max(tokens, key=lambda token: token.score).scores
        else:
            scores = np.nanmean([token.scores for token in tokens], axis=0)
        return {
            "entity": self._labels[int(scores.argmax())],
            "score": float(scores.max()),
            "word": self._to_text([token.word for token in tokens]),
            "start": tokens[0].start,
            "end": tokens[-1].end,
        }

    def _of_group(self, entities: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": float(np.nanmean([entity["score"] for entity in entities])),
            "word": self._to_text([entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def _words(tokens: Iterable[Token]) -> list[list[Token]]:
    """Return tokens by words."""
    words: list[list[Token]] = []
    for token in tokens:
        if token.continues and words:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _groups(entities: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return neighbours with the same tag; one that begins (B-) is the first of its group."""
    groups: list[list[dict[str, Any]]] = []
    for entity in entities:
        begins, tag = _tag(entity["entity"])
        if groups and not begins and tag == _tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its tag without the B- or I- before it."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entities of rows that overlap: of two at one place the longer, then the better."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(last):
            kept[-1] = entity
    return kept


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
