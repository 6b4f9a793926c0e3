"""Texts to arrays of tokens, many at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gpt2x.corpus import Piece, Place
from gpt2x.errors import InvalidInputError
from gpt2x.train.data.bulk import BulkEngine, bulk_engine

# Characters that are encoded before the time is taken to find a fast engine.
_FEW = 2**20


class Texts(NamedTuple):
    """Pieces of documents to encode.

    Attributes:
        texts: of the pieces.
        begins: whether a document begins with each.
        ends: whether a document ends with each.
    """

    texts: list[str]
    begins: list[bool]
    ends: list[bool]


class Batch(NamedTuple):
    """Pieces of documents, and where they stand."""

    pieces: Texts
    places: list[Place]


class Encoded(NamedTuple):
    """The tokens of pieces.

    Attributes:
        tokens: uint16 or uint32, of one piece after another.
        counts: int64 [N], how many are of each.
    """

    tokens: np.ndarray
    counts: np.ndarray


class Encoder:
    """Encodes pieces of documents, with the end-of-text token behind each document.

    Tokens are those of a call of the tokenizer; `add_bos_token` counts at the begin of documents.

    Args:
        tokenizer: GPT2TokenizerFast or GPT2Tokenizer.

    Attributes:
        dtype: of the tokens: uint16 if every id of the vocabulary fits.

    Raises:
        InvalidInputError: if the tokenizer has no end-of-text token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise InvalidInputError(
                "The tokenizer has no eos_token, which ends documents; set tokenizer.eos_token."
            )
        self._tokenizer, self._seen = tokenizer, 0
        self._bos = tokenizer.bos_token_id if tokenizer.add_bos_token else None
        self._eos = tokenizer.eos_token_id
        self.dtype = np.dtype("<u2" if max(tokenizer.get_vocab().values()) < 2**16 else "<u4")

    @cached_property
    def engine(self) -> BulkEngine | None:
        """A fast engine of the tokenizer, or None. To find it takes a second or more."""
        return bulk_engine(self._tokenizer)

    def __call__(self, pieces: Texts) -> Encoded:
        """Return the tokens of pieces."""
        rows = self._rows(pieces)
        counts = np.array([len(row) for row in rows], np.int64)
        tokens = np.concatenate([np.asarray(row, self.dtype) for row in rows])
        begins = np.array(pieces.begins) & (self._bos is not None)
        ends = np.array(pieces.ends)
        # Where one document follows another, the token that ends comes before the one that begins.
        stops = np.cumsum(counts)
        places = np.concatenate([stops[ends], (stops - counts)[begins]])
        added = [self._eos] * int(ends.sum()) + [self._bos] * int(begins.sum())
        return Encoded(np.insert(tokens, places, added), counts + begins + ends)

    def _rows(self, pieces: Texts) -> Sequence[Any]:
        """Return the tokens of each piece, a list or an array."""
        self._seen += sum(map(len, pieces.texts))
        if self._seen > _FEW and self.engine is not None:
            return self.engine(pieces.texts)
        if not self._tokenizer.add_prefix_space or all(pieces.begins):
            return self._ids(pieces.texts)
        # A space stands before documents, not before their further pieces.
        return [
            self._ids([text], **({} if begins else {"add_prefix_space": False}))[0]
            for text, begins in zip(pieces.texts, pieces.begins, strict=True)
        ]

    def _ids(self, texts: list[str], **options: bool) -> list[list[int]]:
        options |= {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return self._tokenizer(texts, **options)["input_ids"]

    def fingerprint(self) -> str:
        """Return what stands for the tokenizer: equal where all texts have equal tokens."""
        tokenizer = self._tokenizer
        parts = (
            asdict(tokenizer.current_vocabulary()),
            tokenizer.special_tokens_map,
            self._bos,
            self._eos,
            tokenizer.split_special_tokens,
        )
        # Added tokens are written as their repr, which has all that they are.
        return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()


def batches(pieces: Iterable[Piece], characters: int, *, begins: bool = True) -> Iterator[Batch]:
    """Yield pieces together, of about so many characters.

    Args:
        pieces: of documents, in order.
        characters: a batch ends with the piece that makes as many.
        begins: whether a document begins with the first piece.
    """
    batch, size = _empty(), 0
    for piece in pieces:
        batch.pieces.texts.append(piece.text)
        batch.pieces.begins.append(begins)
        batch.pieces.ends.append(piece.ends)
        batch.places.append(piece.place)
        begins, size = piece.ends, size + len(piece.text)
        if size >= characters:
            yield batch
            batch, size = _empty(), 0
    if batch.places:
        yield batch


def _empty() -> Batch:
    return Batch(Texts([], [], []), [])
