"""The next tokens of a batch's texts, drawn as often as says something of their distribution."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.batching.choice import TextTable, TextValues, Variant, choose
from gpt2x.batching.options import TextOptions
from gpt2x.generation.numpy_ops import NUMPY_OPS

VOCAB, DRAWS = 40, 100_000
LOGITS = np.random.default_rng(0).normal(0, 2, (1, VOCAB)).astype(np.float32)


def values_of(options, variant, rows):
    """Return the values of one text at as many steps, each of which draws anew."""
    table = TextTable(1, 4, VOCAB)
    table.put(0, [1, 2], options)
    values = table.values(slice(0, 1), variant)
    counts = np.repeat(values.counts, rows, axis=0)
    counts[:, 0] += np.arange(rows)
    repeated = (np.repeat(array, rows, axis=0) for array in (values.numbers, values.keys))
    return TextValues(np.repeat(values.tokens, rows, axis=0), counts, *repeated, values.bias)


def expected(options):
    """Return the probabilities that the filters leave, by sorting: float64 [V]."""
    scores = LOGITS[0].astype(np.float64) / options.temperature
    order = np.argsort(-scores)
    kept = np.ones(VOCAB, bool)
    if options.top_k:
        kept[order[options.top_k :]] = False
    probabilities = np.where(kept, np.exp(scores), 0)
    probabilities /= probabilities.sum()
    if options.top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept[order[before >= options.top_p]] = False
    if options.min_p:
        kept &= probabilities >= options.min_p * probabilities.max()
    if options.typical_p < 1:
        surprise = -np.log(probabilities)
        nearest = np.argsort(abs(surprise - (probabilities * surprise).sum()))
        before = np.cumsum(probabilities[nearest]) - probabilities[nearest]
        kept[nearest[before >= options.typical_p]] = False
    probabilities = np.where(kept, probabilities, 0)
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 1.3},
        {"temperature": 0.7, "top_k": 5},
        {"top_k": 30, "top_p": 0.8},
        {"min_p": 0.05},
        {"typical_p": 0.7},
    ],
)
def test_tokens_are_drawn_from_what_the_filters_leave(given):
    options = TextOptions(max_new_tokens=1, seed=3, **given)
    variant = Variant.of([options])
    counts = np.zeros(VOCAB)
    for _ in range(10):
        values = values_of(options, variant, DRAWS // 10)
        values.counts[:, 0] += int(counts.sum())
        logits = np.repeat(LOGITS, DRAWS // 10, axis=0)
        counts += np.bincount(choose(NUMPY_OPS, logits, values, variant)[0], minlength=VOCAB)
    probabilities = expected(options)
    assert not counts[probabilities == 0].any()
    likely = probabilities * DRAWS >= 5
    wanted = probabilities[likely] * DRAWS
    statistic = ((counts[likely] - wanted) ** 2 / wanted).sum()
    freedom = max(likely.sum() - 1, 1)
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_a_text_is_continued_alike_whatever_the_others_ask_for():
    given = [
        {"temperature": 0.0},
        {"top_k": 5, "top_p": 0.9},
        {"top_p": 0.7},
        {"typical_p": 0.6, "min_p": 0.01},
        {"repetition_penalty": 1.4, "presence_penalty": 1.0, "logit_bias": {3: 4.0}},
    ]
    options = [TextOptions(max_new_tokens=1, seed=n, **each) for n, each in enumerate(given)]
    table = TextTable(len(options), 4, VOCAB)
    for row, each in enumerate(options):
        table.put(row, [1, 2, 3], each)

    def chosen(rows):
        variant = Variant.of(options[rows])
        logits = np.repeat(LOGITS, len(options[rows]), axis=0)
        return choose(NUMPY_OPS, logits, table.values(rows, variant), variant)[0].tolist()

    together = chosen(slice(0, len(options)))
    assert together == [chosen(slice(row, row + 1))[0] for row in range(len(options))]
