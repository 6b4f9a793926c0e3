"""From a text's tokens, one by one, to pieces of text that no later token changes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from gpt2x.tokenization.bpe import token_to_bytes


class TokenBytes:
    """The bytes of a tokenizer's tokens, and which of them are special.

    Args:
        tokenizer: a `GPT2Tokenizer` or `GPT2TokenizerFast`.

    Attributes:
        longest: bytes of the longest token.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.get_added_vocab()
        self._special = frozenset(tokenizer.all_special_ids)
        self._bytes = {
            number: token.encode("utf-8") if token in added else token_to_bytes(token)
            for token, number in tokenizer.get_vocab().items()
        }
        self.longest = max(map(len, self._bytes.values()))

    def of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text: none for one that is special or unknown."""
        return b"" if token in self._special else self._bytes.get(token, b"")

    def all_of(self, token: int) -> bytes:
        """Return the bytes of a token, special ones too."""
        return self._bytes.get(token, b"")

    def shown(self, token: int) -> str:
        """Return a token for people, special ones by their names; bytes that are not UTF-8 as �."""
        return self._bytes.get(token, b"").decode("utf-8", "replace")

    def named(self, token: int) -> str:
        r"""Return a token as `shown` does, but one that is not UTF-8 as ``bytes:\xf0\x9f``.

        This is how OpenAI's API tells such tokens apart.
        """
        found = self._bytes.get(token, b"")
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


class Pieces:
    """The text of tokens that come one by one.

    A piece has whole characters only, and nothing that may turn out to be the beginning of a stop
    string. Where one occurs, the text ends before it.

    Args:
        tokens: the tokenizer's.
        stop: strings that end the text.
        shows_special: whether special tokens are text too.

    Attributes:
        is_stopped: whether a stop string has occurred.
        length: characters of all pieces so far.
    """

    def __init__(
        self, tokens: TokenBytes, stop: Sequence[str] = (), shows_special: bool = False
    ) -> None:
        self._bytes = tokens.all_of if shows_special else tokens.of
        self._stop = [string for string in stop if string]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.is_stopped = False
        self.length = 0

    @property
    def read(self) -> int:
        """Characters of all tokens so far, those too that are held back."""
        return self.length + len(self._held)

    def add(self, token: int) -> str:
        """Take a token; return the text that is final now."""
        self._held += self._decoder.decode(self._bytes(token))
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = self._held[: min(found)]
            return self._released(len(self._held))
        return self._released(len(self._held) - self._possible_stop())

    def end(self) -> str:
        """Return the rest of the text, of which no further token comes."""
        if not self.is_stopped:
            self._held += self._decoder.decode(b"", final=True)
        return self._released(len(self._held))

    def _possible_stop(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        return max(map(self._begun, self._stop), default=0)

    def _begun(self, stop: str) -> int:
        """Return how much of a stop string the end may be the beginning of."""
        longest = min(len(stop) - 1, len(self._held))
        found = (n for n in range(longest, 0, -1) if self._held.endswith(stop[:n]))
        return next(found, 0)

    def _released(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        self.length += len(piece)
        return piece
