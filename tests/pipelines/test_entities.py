"""From the scores of tokens to entities."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.pipelines.entities import AggregationStrategy, Aggregator, Token, without_overlaps

LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def tokens(*rows: tuple[str, dict[int, float], bool]) -> list[Token]:
    """Tokens one after the other: a word, scores by label, and whether it continues the last."""
    found, start = [], 0
    for index, (word, by_label, continues) in enumerate(rows):
        scores = np.zeros(5, np.float32)
        for label, score in by_label.items():
            scores[label] = score
        found.append(Token(word, scores, index, start, start + len(word), continues))
        start += len(word)
    return found


def entities(strategy: str, found: list[Token]) -> list[tuple]:
    aggregator = Aggregator(AggregationStrategy(strategy), LABELS, "".join)
    return [
        (
            entity.get("entity", entity.get("entity_group")),
            round(entity["score"], 4),
            entity["word"],
            entity["start"],
            entity["end"],
        )
        for entity in aggregator.entities(found)
    ]


ANNA = tokens(
    ("An", {1: 0.6, 4: 0.4}, False),
    ("na", {4: 0.9, 1: 0.1}, True),
    (" in", {0: 1.0}, False),
    (" New", {3: 0.8}, False),
    (" York", {4: 0.6}, False),
)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "none",
            [
                ("B-PER", 0.6, "An", 0, 2),
                ("I-LOC", 0.9, "na", 2, 4),
                ("O", 1.0, " in", 4, 7),
                ("B-LOC", 0.8, " New", 7, 11),
                ("I-LOC", 0.6, " York", 11, 16),
            ],
        ),
        (
            "simple",
            [
                ("PER", 0.6, "An", 0, 2),
                ("LOC", 0.9, "na", 2, 4),
                ("O", 1.0, " in", 4, 7),
                ("LOC", 0.7, " New York", 7, 16),
            ],
        ),
        (
            "first",
            [
                ("PER", 0.6, "Anna", 0, 4),
                ("O", 1.0, " in", 4, 7),
                ("LOC", 0.7, " New York", 7, 16),
            ],
        ),
        (
            "average",
            [
                ("LOC", 0.65, "Anna", 0, 4),
                ("O", 1.0, " in", 4, 7),
                ("LOC", 0.7, " New York", 7, 16),
            ],
        ),
        (
            "max",
            [
                ("LOC", 0.9, "Anna", 0, 4),
                ("O", 1.0, " in", 4, 7),
                ("LOC", 0.7, " New York", 7, 16),
            ],
        ),
    ],
)
def test_strategies(strategy, expected):
    assert entities(strategy, ANNA) == expected


def test_an_entity_that_begins_is_another_one():
    found = tokens(("A", {1: 0.5}, False), (" B", {1: 0.7}, False), (" C", {2: 0.9}, False))
    assert entities("simple", found) == [("PER", 0.5, "A", 0, 1), ("PER", 0.8, " B C", 1, 5)]


def test_labels_without_a_prefix_continue():
    aggregator = Aggregator(AggregationStrategy.SIMPLE, {0: "NAME", 1: "X"}, "".join)
    found = [
        Token(word, np.array([0.9, 0.1]), index, index, index + 1, False)
        for index, word in enumerate("ab")
    ]
    (entity,) = aggregator.entities(found)
    assert entity["entity_group"] == "NAME"
    assert entity["word"] == "ab"


def test_no_tokens_have_no_entities():
    for strategy in AggregationStrategy:
        assert entities(strategy.value, []) == []


def test_of_overlapping_entities_the_longer_stays_and_then_the_better():
    def entity(start: int, end: int, score: float) -> dict:
        return {"start": start, "end": end, "score": score}

    long, short = entity(0, 5, 0.1), entity(2, 4, 0.9)
    assert without_overlaps([short, long]) == [long]
    good, bad = entity(6, 8, 0.9), entity(7, 9, 0.1)
    assert without_overlaps([long, good, bad]) == [long, good]
    assert without_overlaps([bad, good, long]) == [long, good]
    apart = entity(8, 9, 0.1)
    assert without_overlaps([good, apart]) == [good, apart]
    assert without_overlaps([]) == []
