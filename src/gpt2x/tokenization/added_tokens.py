"""Tokens that are found in text before it is split into words: special ones and users' own.

The rules are those of the `tokenizers` library (`AddedVocabulary`). They are applied here for both
tokenizer classes, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import regex
from tokenizers import AddedToken

from gpt2x.errors import CheckpointError
from gpt2x.tokenization.unicode import SPACE, character_ranges, word_characters

_WHITE_SPACE = "".join(
    chr(code_point)
    for first, last in character_ranges(SPACE)
    for code_point in range(first, last + 1)
)

_spaces_at = regex.compile(f"[{_WHITE_SPACE}]*").match


class Segment(NamedTuple):
    """A part of a text: an added token, or plain text between them.

    Attributes:
        start: where it begins in the text, in characters.
        text: the characters, with the white space that a token includes.
        token_id: id of the added token; None for plain text.
    """

    start: int
    text: str
    token_id: int | None


class AddedTokens:
    """The added tokens of a tokenizer, by id, and how they are found in text."""

    def __init__(self) -> None:
        self._by_id: dict[int, AddedToken] = {}
        self._ids: dict[str, int] = {}
        self._matchers: dict[bool, list[_Matcher]] = {}

    @property
    def by_id(self) -> dict[int, AddedToken]:
        """The tokens by ascending id."""
        return dict(sorted(self._by_id.items()))

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token, in ascending order."""
        return {token.content: token_id for token_id, token in self.by_id.items()}

    def __contains__(self, content: str) -> bool:
        return content in self._ids

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, content: str) -> int | None:
        """Return the id of a token; None if there is none."""
        return self._ids.get(content)

    def token(self, token_id: int) -> AddedToken | None:
        """Return the token of an id; None if there is none."""
        return self._by_id.get(token_id)

    def put(self, token_id: int, token: AddedToken) -> None:
        """Register a token under an id; one of the same content must have the same id.

        Raises:
            CheckpointError: if the content has another id, or the id another token.
        """
        known = self._ids.get(token.content)
        if known is not None and known != token_id:
            raise CheckpointError(
                f"The added token {token.content!r} has two ids, {known} and {token_id}."
            )
        holder = self._by_id.get(token_id)
        if holder is not None and holder.content != token.content:
            raise CheckpointError(
                f"Two added tokens have the id {token_id}: {holder.content!r} and "
                f"{token.content!r}."
            )
        self._by_id[token_id] = token
        self._ids[token.content] = token_id
        self._matchers.clear()

    def split(self, text: str, *, ignore_special: bool = False) -> list[Segment]:
        """Split a text at its added tokens.

        Tokens that are not normalized are searched first, in the whole text, then the others in the
        rest. The leftmost match wins, and the longest of those that begin there.

        Args:
            text: any text. The segments' texts joined are this text again.
            ignore_special: whether special tokens are treated as plain text.
        """
        segments = [Segment(0, text, None)] if text else []
        for matcher in self._matchers_for(ignore_special):
            segments = [
                part
                for segment in segments
                for part in (matcher.split(segment) if segment.token_id is None else (segment,))
            ]
        return segments

    def _matchers_for(self, ignore_special: bool) -> list[_Matcher]:
        if ignore_special not in self._matchers:
            tokens = {
                token_id: token
                for token_id, token in self._by_id.items()
                if not (ignore_special and token.special)
            }
            groups = (
                {i: token for i, token in tokens.items() if token.normalized == normalized}
                for normalized in (False, True)
            )
            self._matchers[ignore_special] = [_Matcher(group) for group in groups if group]
        return self._matchers[ignore_special]


class _Matcher:
    """Finds a set of tokens in plain text."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._tokens = {token.content: (token_id, token) for token_id, token in tokens.items()}
        # The first alternative that matches wins, so the longest must come first.
        contents = sorted(self._tokens, key=len, reverse=True)
        self._pattern = regex.compile("|".join(map(regex.escape, contents)))

    def split(self, segment: Segment) -> Iterator[Segment]:
        """Yield the non-empty parts of a segment of plain text."""
        text = segment.text
        done = 0
        for match in self._pattern.finditer(text):
            token_id, token = self._tokens[match.group()]
            start, end = match.span()
            if start < done:  # white space that belongs to the token before it
                continue
            if token.single_word and not _stands_alone(text, start, end):
                continue
            if token.lstrip:
                start = done + len(text[done:start].rstrip(_WHITE_SPACE))
            if token.rstrip:
                end = _spaces_at(text, end).end()
            if start > done:
                yield Segment(segment.start + done, text[done:start], None)
            yield Segment(segment.start + start, text[start:end], token_id)
            done = end
        if done < len(text):
            yield Segment(segment.start + done, text[done:], None)


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Return whether both neighbours of a span are outside of words."""
    neighbours = text[max(start - 1, 0) : start] + text[end : end + 1]
    return not any(word_characters()[ord(character)] for character in neighbours)
