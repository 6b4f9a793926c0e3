"""From ids and tokens back to text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.added_tokens import AddedTokens
from gpt2x.tokenization.bpe import token_to_bytes
from gpt2x.tokenization.preparing import to_list


class DecodeMixin:
    """Decoding, which needs no engine: every token stands for bytes."""

    errors: str
    clean_up_tokenization_spaces: bool
    _added: AddedTokens
    _bytes_of: dict[int, bytes]

    def _tokens_by_id(self) -> dict[int, str]:
        """The tokens of the vocabulary that were not added."""
        raise NotImplementedError

    def _special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        raise NotImplementedError

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> str:
        """Return the text of ids: that which was encoded, exactly.

        Args:
            token_ids: an id, a list of ids, or an array or tensor of shape [] or [tokens].
            skip_special_tokens: whether to leave special tokens out.
            clean_up_tokenization_spaces: whether to remove spaces before punctuation and English
                contractions, which may change the text; None for the tokenizer's setting.
            spaces_between_special_tokens: whether to put a space between added tokens and the
                text around them.

        Returns:
            The text. Bytes that are not UTF-8 are treated as `errors` says; ids that no token has
            (a model may have more embeddings than its tokenizer tokens) have no text.

        Raises:
            InvalidInputError: for anything but ids: negative numbers, floats, nested lists.
        """
        ids = to_list(token_ids)
        ids = ids if isinstance(ids, list) else [ids]
        _check_ids(ids)
        if skip_special_tokens:
            skipped = self._special_ids()
            ids = [token_id for token_id in ids if token_id not in skipped]
        if spaces_between_special_tokens:
            text = " ".join(map(self._text_of, self._runs(ids)))
        else:
            text = self._text_of(ids)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Iterable[Any], **options: Any) -> list[str]:
        """Return the text of each row of ids, with the options of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens."""
        parts = (
            token.encode("utf-8") if token in self._added else token_to_bytes(token)
            for token in tokens
        )
        return b"".join(parts).decode("utf-8", self.errors)

    def _text_of(self, ids: Iterable[int]) -> str:
        known = self._bytes_of
        return b"".join(
            known[token_id] if token_id in known else self._read_bytes(token_id) for token_id in ids
        ).decode("utf-8", self.errors)

    def _read_bytes(self, token_id: int) -> bytes:
        added = self._added.token(token_id)
        if added is not None:
            content = added.content.encode("utf-8")
        else:
            content = token_to_bytes(self._tokens_by_id().get(token_id, ""))
        self._bytes_of[token_id] = content
        return content

    def _runs(self, ids: Iterable[int]) -> Iterator[list[int]]:
        """Yield each added token alone, and the ids between them together."""
        run: list[int] = []
        for token_id in ids:
            if self._added.token(token_id) is None:
                run.append(token_id)
                continue
            if run:
                yield run
            yield [token_id]
            run = []
        if run:
            yield run

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces before punctuation and English contractions."""
        for mark in (" .", " ?", " !", " ,"):
            out_string = out_string.replace(mark, mark[1:])
        out_string = out_string.replace(" ' ", "'")
        for contraction in (" n't", " 'm", " 's", " 've", " 're"):
            out_string = out_string.replace(contraction, contraction[1:])
        return out_string


def _check_ids(ids: list[Any]) -> None:
    for token_id in ids:
        if not isinstance(token_id, (int, np.integer)) or token_id < 0:
            hint = " Use batch_decode for several rows." if isinstance(token_id, list) else ""
            raise InvalidInputError(f"Cannot decode {token_id!r}: it is not a token id.{hint}")
