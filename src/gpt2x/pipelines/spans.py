"""From the scores of first and last tokens to the best spans.

T tokens of a row.
"""

from __future__ import annotations

import numpy as np

from gpt2x.pipelines.scores import softmax

_EXCLUDED = -10000.0


def span_scores(start: np.ndarray, end: np.ndarray, is_context: np.ndarray) -> list[np.ndarray]:
    """Return the probabilities of being the first token, and the last.

    Args:
        start, end: logits [T].
        is_context: bool [T], the tokens that an answer may hold.
    """
    return [softmax(np.where(is_context, logits, _EXCLUDED)) for logits in (start, end)]


def best_spans(
    start: np.ndarray, end: np.ndarray, count: int, longest: int
) -> list[tuple[int, int, float]]:
    """Return at most `count` spans of at most `longest` tokens: first, last, score; best first.

    The score is the product of the probabilities [T] of both ends; spans without any are left out.
    So is the first token of a row, which stands for no answer.
    """
    start, end = start.copy(), end.copy()
    start[0] = end[0] = 0.0
    products = np.tril(np.triu(np.outer(start, end)), longest - 1)  # [T, T]
    flat = products.ravel()
    if count == 1:
        order = np.array([flat.argmax()])
    elif len(flat) <= count:
        order = np.argsort(-flat)
    else:
        order = np.argpartition(-flat, count)[:count]
        order = order[np.argsort(-flat[order])]
    ends = np.unravel_index(order, products.shape)
    return [
        (int(first), int(last), float(products[first, last]))
        for first, last in zip(*ends, strict=True)
        if products[first, last] > 0
    ]
