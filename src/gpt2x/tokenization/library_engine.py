"""The engine on the `tokenizers` library, which encodes batches in parallel and knows offsets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.added_tokens import Segment
from gpt2x.tokenization.bpe import is_byte_complete, unknown_symbol
from gpt2x.tokenization.encoding import EncodedSequence, Span
from gpt2x.tokenization.engine import Engine
from gpt2x.tokenization.pretokenization import explicit_pattern
from gpt2x.tokenization.token_table import TokenTable

#: Stands for what the vocabulary lacks, if the tokenizer has no unknown token. No merge makes it:
#: NUL is the name of no byte.
_UNKNOWN = "\0unknown"

#: Characters of a text that takes more than a few milliseconds.
_LONG = 10_000


class LibraryEngine(Engine):
    """Encodes by the library. Its sequences know their tokens' words and characters."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self._is_byte_complete = is_byte_complete(table.vocabulary.tokens)
        # By whether a space is put before texts, and by the unknown token's id.
        self._tokenizers: dict[tuple[bool, int | None], Tokenizer] = {}

    def encode(
        self,
        texts: Sequence[Sequence[str]],
        *,
        are_words: bool = False,
        prefix_space: bool = False,
        ignore_special: bool = False,
    ) -> list[EncodedSequence]:
        """Encode texts: see `Engine.encode`."""
        split = [
            [
                (word, segment)
                for word, part in enumerate(parts)
                for segment in self.table.added.split(part, ignore_special=ignore_special)
            ]
            for parts in texts
        ]
        plain = [
            segment.text for parts in split for _, segment in parts if segment.token_id is None
        ]
        encodings = iter(self._encode_plain(plain, prefix_space))
        return [
            _LibrarySequence(
                [
                    _Added(segment, segment.token_id, str(self.table.text_of(segment.token_id)))
                    if segment.token_id is not None
                    else _Plain(segment, next(encodings))
                    for _, segment in parts
                ],
                [word for word, _ in parts] if are_words else None,
            )
            for parts in split
        ]

    def _encode_plain(self, texts: list[str], prefix_space: bool) -> list[Encoding]:
        """Encode texts without added tokens, in parallel if there are several."""
        unknown_id = self._unknown_id()
        key = (prefix_space, unknown_id)
        if key not in self._tokenizers:
            made = Tokenizer(self.model())
            made.pre_tokenizer = pinned_pre_tokenizer(prefix_space)
            self._tokenizers[key] = made  # only now: other threads may use it at once
        tokenizer = self._tokenizers[key]
        # `encode` keeps Python's lock, for which a server's other threads wait. `encode_batch`
        # does not, but takes longer to start.
        if len(texts) == 1 and len(texts[0]) < _LONG:
            encodings = [tokenizer.encode(texts[0], add_special_tokens=False)]
        else:
            encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        if not self._is_byte_complete and unknown_id is None:
            _refuse_unknown(texts, encodings)
        return encodings

    def _unknown_id(self) -> int | None:
        return None if self._is_byte_complete else self.table.unknown_id()

    def model(self) -> models.BPE:
        """Return the library's form of the vocabulary, with the unknown token of now."""
        tokens, merges = self.table.vocabulary.tokens, self.table.vocabulary.merges
        if self._is_byte_complete:
            made = list(self._tokenizers.values())
            return made[0].model if made else models.BPE(tokens, merges)  # not copied
        # The library drops what it does not know, unless there is a token for that.
        unknown, unknown_id = _UNKNOWN, self._unknown_id()
        if unknown_id is None:
            unknown_id = max(tokens.values(), default=0) + 1
        else:
            unknown = str(self.table.text_of(unknown_id))
        return models.BPE({**tokens, unknown: unknown_id}, merges, unk_token=unknown)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made when it is needed (for pickle and copy)."""
        return {**self.__dict__, "_tokenizers": {}}


def pinned_pre_tokenizer(prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """Return what the library calls ByteLevel, with our Unicode table in the place of its own.

    Args:
        prefix_space: whether text is taken as if after a space, unless it begins with one.
    """
    steps = [
        pre_tokenizers.Split(Regex(explicit_pattern()), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if prefix_space:
        # Metaspace with a space for its mark does that and nothing else. (ByteLevel would put a
        # space before every word that Split found.)
        steps.insert(0, pre_tokenizers.Metaspace(" ", prepend_scheme="always", split=False))
    return pre_tokenizers.Sequence(steps)


class _Plain:
    """A segment of plain text, as the library encoded it."""

    def __init__(self, segment: Segment, encoding: Encoding) -> None:
        self._start = segment.start
        self._encoding = encoding
        self.ids: list[int] = encoding.ids

    @property
    def tokens(self) -> list[str]:
        return self._encoding.tokens

    @property
    def offsets(self) -> list[Span]:
        start = self._start
        return [(start + first, start + end) for first, end in self._encoding.offsets]

    @property
    def word_ids(self) -> list[int]:
        return [word for word in self._encoding.word_ids if word is not None]


class _Added:
    """A segment that is an added token."""

    def __init__(self, segment: Segment, token_id: int, token: str) -> None:
        self.ids = [token_id]
        self.tokens = [token]
        self.offsets = [(segment.start, segment.start + len(segment.text))]
        self.word_ids = [0]


class _LibrarySequence(EncodedSequence):
    """A sequence that knows its tokens' words and characters, and asks the library when needed.

    Args:
        parts: what the segments were encoded to, in order.
        words: for each part the number of the word that it is in, if the text was given as words.
    """

    def __init__(self, parts: list[_Plain | _Added], words: list[int] | None) -> None:
        self._parts = parts
        self._words = words
        super().__init__(list(chain.from_iterable(part.ids for part in parts)))

    @cached_property
    def tokens(self) -> list[str]:
        return list(chain.from_iterable(part.tokens for part in self._parts))

    @cached_property
    def offsets(self) -> list[Span]:
        return list(chain.from_iterable(part.offsets for part in self._parts))

    @cached_property
    def word_ids(self) -> list[int]:
        word_ids: list[int] = []
        if self._words is not None:
            for part, word in zip(self._parts, self._words, strict=True):
                word_ids += [word] * len(part.ids)
            return word_ids
        for part in self._parts:
            base = word_ids[-1] + 1 if word_ids else 0
            word_ids += [base + word for word in part.word_ids]
        return word_ids


def _refuse_unknown(texts: list[str], encodings: list[Encoding]) -> None:
    """Raise if any of the texts holds what the vocabulary lacks."""
    for text, encoding in zip(texts, encodings, strict=True):
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token == _UNKNOWN:
                raise InvalidInputError(unknown_symbol(text[start:end]))
