"""Rows for a language model, out of a corpus of tokens."""

from __future__ import annotations

import numpy as np

from gpt2x.corpus import Place
from gpt2x.errors import InvalidInputError, check_count
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.data.store import TokenCorpus


class Blocks:
    """Rows of `block_size` tokens, cut from the documents one after another.

    What remains behind the last whole row is left out.

    Raises InvalidInputError if the corpus is shorter than one row.
    """

    def __init__(self, corpus: TokenCorpus, block_size: int) -> None:
        check_count("block_size", block_size, 1)
        self._corpus, self._size = corpus, block_size
        if len(corpus) < block_size:
            raise InvalidInputError(
                f"The data is {len(corpus):,} tokens, fewer than the {block_size:,} of one row: "
                "give more data, or a smaller block_size."
            )

    def __len__(self) -> int:
        return len(self._corpus) // self._size

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return rows by their numbers, int [B].

        Returns:
            `input_ids` and `labels`, both int32 [B, T] and equal: the model shifts them.
        """
        ids = np.stack([self._corpus.read(*self._span(index)) for index in indices])
        return {"input_ids": ids, "labels": ids.copy()}

    def places(self, index: int) -> list[Place]:
        """Return where the documents begin that a row has tokens of."""
        return self._corpus.places(*self._span(index))

    def _span(self, index: int) -> tuple[int, int]:
        start = int(index) * self._size
        return start, start + self._size


class Documents:
    """Rows of one document each, cut off behind `block_size` tokens and padded on the right.

    Args:
        corpus: the documents.
        block_size: tokens of each row.
        pad_token_id: stands behind shorter documents; it is masked, and has no label.

    Raises InvalidInputError if there are no documents.
    """

    def __init__(self, corpus: TokenCorpus, block_size: int, pad_token_id: int) -> None:
        check_count("block_size", block_size, 1)
        self._corpus, self._size, self._pad = corpus, block_size, pad_token_id
        if corpus.num_documents == 0:
            raise InvalidInputError("The data holds no document.")

    def __len__(self) -> int:
        return self._corpus.num_documents

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return rows by their numbers, int [B].

        Returns:
            `input_ids`, `attention_mask` and `labels`, each int32 [B, T]; labels are -100 where
            the mask is 0.
        """
        ids = np.full((len(indices), self._size), self._pad, np.int32)
        mask = np.zeros_like(ids)
        for row, index in enumerate(indices):
            tokens = self._corpus.read(*self._span(index))
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        labels = np.where(mask, ids, np.int32(IGNORE_INDEX))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def places(self, index: int) -> list[Place]:
        """Return where the document of a row begins."""
        return self._corpus.places(*self._span(index))

    def _span(self, index: int) -> tuple[int, int]:
        start, stop = self._corpus.span(int(index))
        return start, min(stop, start + self._size)
