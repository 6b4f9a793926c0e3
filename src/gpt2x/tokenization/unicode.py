"""Letters, numbers and white space of Unicode: one pinned table for every tokenizer.

GPT-2 splits text with a pattern of Unicode letters, numbers and white space. What these are depends
on the Unicode version of the regular expression engine: `regex`, in OpenAI's code and transformers'
slow tokenizer, changes it with its releases; `tokenizers` and `tiktoken` have another version, and
TensorFlow's RE2 an older one. With these engines the ids of a text in a recent script would depend
on the tokenizer class and on upgrades of dependencies. So all tokenizers of gpt2x classify
characters beyond ASCII with this table.

The table is **Unicode 16.0.0** and will not change. `tokenizers` 0.22 and 0.23 (and so the fast
tokenizers of transformers, the only ones of version 5, and most servers) and `tiktoken` classify
every code point in the same way, so a folder saved by gpt2x gives the same ids there. GPT-2 itself
was trained
on no newer letter: its text is from 2017.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from gpt2x.tokenization.unicode_ranges import (
    LETTERS,
    NUMBERS,
    SPACES,
    UNICODE_VERSION,
    WORD_CHARACTERS,
)

__all__ = [
    "LETTER",
    "NUMBER",
    "OTHER",
    "SPACE",
    "UNICODE_VERSION",
    "character_classes",
    "character_ranges",
    "word_characters",
]

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3

_RANGES = {LETTER: LETTERS, NUMBER: NUMBERS, SPACE: SPACES}

CODE_POINTS = 0x110000


def character_ranges(character_class: int) -> list[tuple[int, int]]:
    """Return the inclusive ranges of code points of LETTER, NUMBER or SPACE, ascending."""
    return _parse(_RANGES[character_class])


def _parse(ranges: str) -> list[tuple[int, int]]:
    bounds = (item.partition("-") for item in ranges.split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in bounds]


@cache
def character_classes() -> np.ndarray:
    """Return the class of every code point: OTHER, LETTER, NUMBER or SPACE.

    LETTER is the general category L, NUMBER the category N, SPACE the property White_Space.
    Unassigned code points, private use and surrogates are OTHER.

    Returns:
        A read-only int8 array of shape [0x110000]; the same one on every call.
    """
    classes = np.full(CODE_POINTS, OTHER, np.int8)
    for character_class in _RANGES:
        for first, last in character_ranges(character_class):
            classes[first : last + 1] = character_class
    classes.flags.writeable = False
    return classes


@cache
def word_characters() -> np.ndarray:
    r"""Return which code points are parts of words: \w of UTS #18, annex C.

    They are letters, marks, decimal and letter-like numbers, connectors such as _, and joiners.

    Returns:
        A read-only boolean array of shape [0x110000]; the same one on every call.
    """
    in_words = character_classes() == LETTER
    for first, last in _parse(WORD_CHARACTERS):
        in_words[first : last + 1] = True
    in_words.flags.writeable = False
    return in_words
