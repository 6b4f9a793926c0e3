"""How GPT-2 splits text into words before it merges bytes.

OpenAI's pattern (encoder.py of the GPT-2 release), alternative by alternative: an English
contraction; letters, numbers, or other characters, each with at most one space before them; white
space up to the last one before a word; white space.

Its two engines, `regex` here and Oniguruma in `tokenizers`, must agree on every code point, so
neither classifies characters beyond ASCII: see `unicode`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import regex

from gpt2x.tokenization.unicode import (
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    character_classes,
    character_ranges,
)

_TEMPLATE = (
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
    "|[{space}]+(?![^{space}])|[{space}]+"
)

# For ASCII text: the classes of ASCII characters are the same in all Unicode versions.
_find_words = regex.compile(_TEMPLATE.format(letter=r"\p{L}", number=r"\p{N}", space=r"\s")).findall

# An ASCII character of each class that the pattern does not name; it names the letters of
# contractions and the space.
_STAND_INS = {OTHER: "!", LETTER: "A", NUMBER: "0", SPACE: "\t"}


def split_words(text: str) -> list[str]:
    """Split text into words as GPT-2 does. Joined, they are the text.

    >>> split_words("It's 2 o'clock,  dear.")
    ['It', "'s", ' 2', ' o', "'", 'clock', ',', ' ', ' dear', '.']
    """
    if text.isascii():
        return _find_words(text)
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    stand_in = _stand_ins()[code_points].tobytes().decode("ascii")
    words = _find_words(stand_in)
    # Most words of most texts are ASCII and need no look-up.
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    foreign = np.flatnonzero(code_points >= 128)
    for number in np.unique(np.searchsorted(ends, foreign, side="right")).tolist():
        end = int(ends[number])
        words[number] = text[end - len(words[number]) : end]
    return words


@cache
def _stand_ins() -> np.ndarray:
    """Return an ASCII character (uint8) of the class of every code point; itself if it is ASCII."""
    by_class = np.empty(len(_STAND_INS), np.uint8)
    for character_class, character in _STAND_INS.items():
        by_class[character_class] = ord(character)
    stand_ins = by_class[character_classes()]
    stand_ins[:128] = np.arange(128)
    return stand_ins


@cache
def explicit_pattern() -> str:
    """Return the pattern with each class spelt as ranges, in Oniguruma's syntax (26 kB)."""
    return _TEMPLATE.format(
        letter=_oniguruma_ranges(LETTER),
        number=_oniguruma_ranges(NUMBER),
        space=_oniguruma_ranges(SPACE),
    )


def _oniguruma_ranges(character_class: int) -> str:
    return "".join(
        rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in character_ranges(character_class)
    )
