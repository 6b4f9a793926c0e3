"""Fast encoding of many texts, by the library gigatoken where it gives the same tokens.

Its table of letters is of a newer Unicode than that of gpt2x. A text with a character that was not
in use yet goes the tokenizer's way.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import permutations
from typing import Any

import numpy as np

from gpt2x.tokenization.bpe import is_byte_complete
from gpt2x.tokenization.unicode import (
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    character_classes,
    character_ranges,
)

logger = logging.getLogger(__name__)

# The library remembers every word that it meets. It is loaded again behind so many characters,
# so that it takes less than 400 MB even where no word comes twice.
_FORGET = 2**25

_MOST_ADDED = 64


class BulkEngine:
    """Encodes texts as a call of the tokenizer does, many times faster.

    Args:
        tokenizer: one that `bulk_engine` accepts.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        self._definition = json.dumps({**definition, "post_processor": None})
        self._load()

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """Return the tokens of each text: an array or a list."""
        if self._seen > _FORGET:
            self._load()
        self._seen += sum(map(len, texts))
        return [
            self._encode(text) if _is_settled(text) else _encode_slowly(self._tokenizer, [text])[0]
            for text in texts
        ]

    def _load(self) -> None:
        from gigatoken import Tokenizer

        self._encode, self._seen = Tokenizer.from_json(self._definition).encode, 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_definition": self._definition, "_tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()


def bulk_engine(tokenizer: Any) -> BulkEngine | None:
    """Return the fast engine of a tokenizer; None if the tokenizer's own has to do.

    That is so if gigatoken is not installed, and for settings that change what texts are split
    into. Probes of all kinds of characters and of the vocabulary are compared before any text is.
    """
    if find_spec("gigatoken") is None or not _is_plain(tokenizer):
        return None
    probes = _probes(tokenizer)
    expected = _encode_slowly(tokenizer, probes)
    try:
        engine = BulkEngine(tokenizer)
        tokens = [list(found) for found in engine(probes)]
    except Exception as error:  # of any type: it is another program's reading of the vocabulary
        logger.warning(f"gigatoken does not take this tokenizer, which encodes itself: {error}")
        return None
    if tokens != expected:
        logger.warning("gigatoken gives other tokens than this tokenizer, which encodes itself.")
        return None
    return engine


def _encode_slowly(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _is_settled(text: str) -> bool:
    """Return whether no character of a text could be a letter in a newer Unicode."""
    if text.isascii():
        return True
    code_points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return not _unsettled()[code_points].any()


@cache
def _unsettled() -> np.ndarray:
    """Return which code points have no use, or are letters to a Python of newer Unicode: bool."""
    classes = character_classes()
    categories = map(unicodedata.category, map(chr, range(len(classes))))
    maybe = ((name == "Cn" or name[0] in "LN") for name in categories)
    return np.fromiter(maybe, bool, len(classes)) & (classes == OTHER)


def _is_plain(tokenizer: Any) -> bool:
    added = tokenizer.added_tokens_decoder.values()
    return (
        tokenizer.is_fast
        and not tokenizer.add_prefix_space
        and not tokenizer.split_special_tokens
        and is_byte_complete(tokenizer.get_vocab())
        and not any(token.lstrip or token.rstrip or token.single_word for token in added)
        and len(added) <= _MOST_ADDED
        and not any(_overlap(*pair) for pair in permutations(map(str, added), 2))
    )


def _overlap(first: str, second: str) -> bool:
    """Return whether the second token can begin within the first: engines choose differently."""
    return any(
        second.startswith(first[start:]) or first.startswith(second, start)
        for start in range(len(first))
    )


def _probes(tokenizer: Any) -> list[str]:
    """Return texts that engines of other rules would split or merge in other ways."""
    bounds = {
        code_point
        for kind in (LETTER, NUMBER, SPACE)
        for first, last in character_ranges(kind)
        for code_point in (first - 1, first, last, last + 1)
    }
    characters = [
        chr(bound)
        for bound in sorted(bounds)
        if not 0xD800 <= bound < 0xE000 and not _unsettled()[bound]
    ]
    # Behind a letter a contraction is a word of its own, and an apostrophe behind others is not.
    alone = [f"a{character}'s {character}1 " for character in characters]
    added = list(tokenizer.get_added_vocab())
    return [
        *alone,
        tokenizer.decode(sorted(tokenizer.get_vocab().values())),
        *(f"a{token}{token} {token}\n b{token[:-1]}{token}" for token in added),
        "I'll, WE'LL they've 's's  \n\n 12a  \t x ",
    ]
