"""Perplexity and bits per byte of texts, with a sliding window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpt2x.corpus import Piece
from gpt2x.errors import DataError, InvalidInputError, check_count
from gpt2x.evaluation.scoring import Row, Scorer, exp


def perplexity(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str | Piece],
    *,
    stride: int | None = None,
    window: int | None = None,
    from_eos: bool = True,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Measure how well a model predicts texts.

    A text longer than the window is read in windows that overlap: each begins `stride` tokens after
    the one before it, and only its tokens that none has scored yet are scored. So every token is
    scored once, and all but those of the first window have at least `window - stride` tokens of
    context. A short stride gives the truer measure and takes longer.

    Args:
        model: a language model of any backend.
        tokenizer: its tokenizer.
        texts: documents, or pieces of them (`gpt2x.corpus.read_documents`).
        stride: 1 to window - 1; by default half of the window.
        window: tokens that the model sees at once, at most and by default its n_positions.
        from_eos: whether each document is read after the token that ends documents, as it is in
            training, so that its first token is scored too. Otherwise that token is context only.
        batch_size: windows that the model reads at once; see `Scorer`.

    Returns:
        `loss` (nats a token), `perplexity` (exp of it), `bits_per_byte` (of UTF-8),
        `word_perplexity` (words are what white space divides; infinite where
        few do), and the counts of scored `tokens`,
        and of `bytes`, `words` and `documents`.

    Raises:
        InvalidInputError: for a stride or window that cannot be used.
        DataError: if there is no token to score.
    """
    if isinstance(texts, str):
        raise InvalidInputError("texts is one string; pass a list of documents.")
    scorer = Scorer(model, batch_size)
    check_count("window", window, 2)
    check_count("stride", stride, 1)
    window = scorer.n_positions if window is None else window
    if window > scorer.n_positions:
        raise InvalidInputError(
            f"window is {window}, but the model has {scorer.n_positions} positions."
        )
    stride = window // 2 if stride is None else stride
    if stride >= window:
        raise InvalidInputError(
            f"stride is {stride}; it must be at most {window - 1}, one less than the window, since "
            "a token is predicted from one before it."
        )
    counts = _Counts()
    prefix = [tokenizer.eos_token_id] if from_eos and tokenizer.eos_token_id is not None else []
    rows = (
        row
        for document in _documents(texts)
        for row in _windows(_tokens(document, tokenizer, counts), prefix, window, stride)
    )
    total, tokens = 0.0, 0
    for scores in scorer.scores(rows):
        total -= float(scores.log_probabilities.sum())
        tokens += len(scores.log_probabilities)
    if not tokens:
        raise DataError("The texts hold no token to score.")
    return {
        "loss": total / tokens,
        "perplexity": exp(total / tokens),
        "bits_per_byte": total / math.log(2) / counts.bytes,
        "word_perplexity": exp(total / max(1, counts.words)),
        "tokens": tokens,
        "bytes": counts.bytes,
        "words": counts.words,
        "documents": counts.documents,
    }


@dataclass
class _Counts:
    bytes: int = 0
    words: int = 0
    documents: int = 0


def _documents(texts: Iterable[str | Piece]) -> Iterator[Iterator[str]]:
    """Yield the texts of the pieces of each document."""
    pieces = iter(texts)
    for first in pieces:
        yield _pieces_of(first, pieces)


def _pieces_of(first: str | Piece, pieces: Iterator[str | Piece]) -> Iterator[str]:
    piece: str | Piece | None = first
    while isinstance(piece, Piece):
        yield piece.text
        piece = None if piece.ends else next(pieces, None)
    if piece is not None:
        yield piece


def _tokens(document: Iterator[str], tokenizer: Any, counts: _Counts) -> Iterator[int]:
    """Yield the tokens of a document, and count what it holds."""
    counts.documents += 1
    inside = False  # a word that the piece before it began
    for text in document:
        counts.bytes += len(text.encode())
        counts.words += len(text.split()) - (inside and not text[:1].isspace())
        inside = not text[-1:].isspace()
        yield from tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _windows(tokens: Iterator[int], prefix: list[int], window: int, stride: int) -> Iterator[Row]:
    """Yield the windows of a document; each token but the first is scored in one of them."""
    ids, first = list(prefix), 1
    for token in tokens:
        ids.append(token)
        if len(ids) == window:
            yield Row(ids, first)
            ids = ids[stride:]
            first = len(ids)
    if len(ids) > first:
        yield Row(ids, first)
