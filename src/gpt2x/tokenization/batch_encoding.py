"""`BatchEncoding`, the result of a tokenizer."""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gpt2x import backends
from gpt2x.errors import InvalidInputError, did_you_mean
from gpt2x.tokenization.encoding import Encoding


class TokenSpan(NamedTuple):
    """A range of tokens in a row: the first, and the one after the last."""

    start: int
    end: int


class CharSpan(NamedTuple):
    """A range of characters in a text: the first, and the one after the last."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """The arrays of a tokenizer by name, and how tokens relate to the texts.

    A dictionary (`input_ids`, `attention_mask` ...) whose entries are also attributes. With
    GPT2TokenizerFast it also gives the words and characters of each token.

    Args:
        data: the entries.
        encoding: the rows they were made of, from GPT2TokenizerFast.
        tensor_type: "np", "pt", "tf" or "jax" to make tensors of the entries.
        prepend_batch_axis: whether tensors get a first dimension of one.
        n_sequences: 1, or 2 for pairs.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        if encoding is not None and not isinstance(encoding, Sequence):
            encoding = [encoding]
        self._encodings = None if encoding is None else list(encoding)
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    # As a dictionary and an object ----------------------------------------------------------------

    def __getitem__(self, item: Any) -> Any:
        """Return an entry by name, a row (from GPT2TokenizerFast) by number, or slices of all."""
        if isinstance(item, str):
            return self.data[item]
        if isinstance(item, slice):
            if self._encodings is not None:
                return self._encodings[item]
            return {name: value[item] for name, value in self.data.items()}
        return self._rows(f"row {item!r}")[item]

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        hint = did_you_mean(name, [*data, *dir(type(self))])
        raise AttributeError(f"BatchEncoding has no entry or attribute {name!r}.{hint}")

    @property
    def n_sequences(self) -> int | None:
        """1, or 2 for pairs; None if unknown."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether words and characters are known, that is, whether GPT2TokenizerFast made this."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """The rows, from GPT2TokenizerFast; else None."""
        return self._encodings

    # Rows -----------------------------------------------------------------------------------------

    def _rows(self, what: str) -> list[Encoding]:
        if self._encodings is None:
            raise InvalidInputError(f"{what} is only known for results of GPT2TokenizerFast.")
        return self._encodings

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, spelt as in the vocabulary."""
        return self._rows("tokens()")[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row its sequence, 0 or 1, or None."""
        return self._rows("sequence_ids()")[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word, or None."""
        return self._rows("word_ids()")[batch_index].word_ids

    def words(self, batch_index: int = 0) -> list[int | None]:
        """Deprecated: use `word_ids`."""
        warnings.warn("BatchEncoding.words() is now word_ids().", FutureWarning, stacklevel=2)
        return self.word_ids(batch_index)

    # From tokens to words and characters ----------------------------------------------------------
    # Each takes (index) for the first row or (row, index); negative tokens count from the end.

    def token_to_sequence(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The sequence of a token, 0 or 1; None for special tokens and padding."""
        row, token = self._token("token_to_sequence()", batch_or_token_index, token_index)
        return row.token_to_sequence(token)

    def token_to_word(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The word of a token; None for special tokens and padding."""
        row, token = self._token("token_to_word()", batch_or_token_index, token_index)
        return row.token_to_word(token)

    def token_to_chars(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> CharSpan | None:
        """The characters of a token; None for special tokens and padding."""
        row, token = self._token("token_to_chars()", batch_or_token_index, token_index)
        return _span(CharSpan, row.token_to_chars(token))

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word of sequence 0 or 1; None if the row has none of them."""
        row, word = self._row_and_index("word_to_tokens()", batch_or_word_index, word_index)
        return _span(TokenSpan, row.word_to_tokens(word, sequence_index))

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word of sequence 0 or 1; None if the row has none of them."""
        row, word = self._row_and_index("word_to_chars()", batch_or_word_index, word_index)
        return _span(CharSpan, row.word_to_chars(word, sequence_index))

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The first token of a character of sequence 0 or 1; None if it has no token."""
        row, char = self._row_and_index("char_to_token()", batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word of a character of sequence 0 or 1; None if it is in no word."""
        row, char = self._row_and_index("char_to_word()", batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def _row_and_index(
        self, what: str, row_or_index: int, index: int | None
    ) -> tuple[Encoding, int]:
        rows = self._rows(what)
        return (rows[0], row_or_index) if index is None else (rows[row_or_index], index)

    def _token(self, what: str, row_or_token: int, token: int | None) -> tuple[Encoding, int]:
        row, index = self._row_and_index(what, row_or_token, token)
        return row, index + len(row) if index < 0 else index

    # Tensors --------------------------------------------------------------------------------------

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> Self:
        """Convert the entries to tensors, in place.

        Args:
            tensor_type: "np", "pt", "tf" or "jax"; None to change nothing.
            prepend_batch_axis: whether each gets a first dimension of one.

        Raises:
            InvalidInputError: for another `tensor_type`, or if an entry is ragged.
            MissingBackendError: if that framework is not installed.
        """
        if tensor_type is None:
            return self
        for name, value in self.data.items():
            array = _rectangular(name, value)
            self.data[name] = backends.to_tensor(
                array[None] if prepend_batch_axis else array,
                str(getattr(tensor_type, "value", tensor_type)),
            )
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """Move the PyTorch tensors among the entries to a device, in place."""
        for name, value in self.data.items():
            if callable(getattr(value, "to", None)):
                self.data[name] = value.to(device, non_blocking=non_blocking)
        return self


def _span(kind: Callable[..., Any], span: tuple[int, int] | None) -> Any:
    return None if span is None else kind(*span)


def _rectangular(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        array = np.empty(0, dtype=object)
    if array.dtype == object:
        raise InvalidInputError(
            f"{name!r} cannot become a tensor: its rows differ in length. Pass padding=True, and "
            "truncation=True if texts may be too long."
        )
    return array.astype(np.int64) if array.size == 0 else array
