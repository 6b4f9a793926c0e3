"""What turns texts into ids and back: the interface of the engines, and the one in Python.

`library_engine` has the other one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from gpt2x.tokenization.bpe import BytePairEncoder, token_to_bytes
from gpt2x.tokenization.encoding import EncodedSequence
from gpt2x.tokenization.pretokenization import split_words
from gpt2x.tokenization.token_table import TokenTable

#: What cleaning up decoded text writes for spaced punctuation and contractions, one after the
#: other.
CLEANED_UP = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


class Engine(ABC):
    """Encodes plain text between added tokens, and decodes.

    Args:
        table: the tokens. Those that are added to it later count as well.
    """

    def __init__(self, table: TokenTable) -> None:
        self.table = table

    @abstractmethod
    def encode(
        self,
        texts: Sequence[Sequence[str]],
        *,
        are_words: bool = False,
        prefix_space: bool = False,
        ignore_special: bool = False,
    ) -> list[EncodedSequence]:
        """Encode texts, without special tokens around them.

        Args:
            texts: each a list of words, or a list of itself alone.
            are_words: whether texts were given as lists of words, which number the tokens.
            prefix_space: whether each part is encoded as if after a space.
            ignore_special: whether special tokens in a text are taken for plain text.

        Raises:
            InvalidInputError: if a text holds what the vocabulary lacks, and there is no unknown
                token.
        """

    # Every token stands for bytes, so that both engines decode in one way.

    def decode(self, ids: Iterable[int], errors: str, *, separator: str | None = None) -> str:
        """Return the text of ids. An id that no token has is without text.

        Args:
            ids: token ids, at least 0.
            errors: what is done with bytes that are not UTF-8, as in `bytes.decode`.
            separator: put between added tokens and the text around them.
        """
        if separator is not None:
            return separator.join(self.decode(run, errors) for run in self._runs(ids))
        return b"".join(map(self.table.bytes_of.__getitem__, ids)).decode("utf-8", errors)

    def decode_tokens(self, tokens: Iterable[str], errors: str) -> str:
        """Return the text of tokens, spelt as in the vocabulary."""
        added = self.table.added
        parts = (
            token.encode("utf-8") if token in added else token_to_bytes(token) for token in tokens
        )
        return b"".join(parts).decode("utf-8", errors)

    def _runs(self, ids: Iterable[int]) -> Iterator[list[int]]:
        """Yield each added token alone, and the ids between them together."""
        run: list[int] = []
        for token_id in ids:
            if self.table.added.token(token_id) is None:
                run.append(token_id)
                continue
            if run:
                yield run
            yield [token_id]
            run = []
        if run:
            yield run


class RegexEngine(Engine):
    """Encodes by a regular expression that splits texts, and merges of words, each done once.

    It does not know which characters a token comes from.

    Attributes:
        words: encodes words; a dictionary of the ids of those met before.
    """

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self.words = BytePairEncoder(table.vocabulary.tokens, table.vocabulary.ranks())

    def encode(
        self,
        texts: Sequence[Sequence[str]],
        *,
        are_words: bool = False,
        prefix_space: bool = False,
        ignore_special: bool = False,
    ) -> list[EncodedSequence]:
        """Encode texts: see `Engine.encode`."""
        self.words.unknown_id = self.table.unknown_id()

        def encode(text: str) -> list[int]:
            ids: list[int] = []
            for segment in self.table.added.split(text, ignore_special=ignore_special):
                if segment.token_id is not None:
                    ids.append(segment.token_id)
                    continue
                plain = segment.text
                if prefix_space and not plain.startswith(" "):
                    plain = " " + plain
                ids += chain.from_iterable(map(self.words.__getitem__, split_words(plain)))
            return ids

        return [EncodedSequence(list(chain.from_iterable(map(encode, text)))) for text in texts]
