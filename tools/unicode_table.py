"""Write src/gpt2x/tokenization/unicode_ranges.py, the table that all tokenizers share.

Needs an interpreter or package that knows exactly Unicode 16.0.0:

    pip install unicodedata2==16.0.0
    python tools/unicode_table.py > src/gpt2x/tokenization/unicode_ranges.py

(Python 3.14's own unicodedata is 16.0.0 too and is used when unicodedata2 is missing.)
"""

import itertools
import textwrap
from collections.abc import Iterable, Iterator

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

UNICODE_VERSION = "16.0.0"

# The White_Space property (PropList.txt) has not changed since Unicode 6.3 and, unlike general
# categories, is not in unicodedata: str.isspace adds U+001C to U+001F.
WHITE_SPACE = [
    *range(0x09, 0x0E),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
]

# The So characters that have the property Alphabetic: circled and squared Latin letters.
ALPHABETIC_SYMBOLS = [
    *range(0x24B6, 0x24EA),
    *range(0x1F130, 0x1F14A),
    *range(0x1F150, 0x1F16A),
    *range(0x1F170, 0x1F18A),
]
JOIN_CONTROLS = [0x200C, 0x200D]

HEADER = '''"""Code points by class in Unicode {version}, written by tools/unicode_table.py.

Inclusive hexadecimal ranges in ascending order.
"""

UNICODE_VERSION = "{version}"
'''


def with_category(first_letter: str) -> Iterator[int]:
    """All code points whose general category starts with this letter."""
    return (c for c in range(0x110000) if unicodedata.category(chr(c))[0] == first_letter)


def word_characters() -> list[int]:
    r"""What \w matches (UTS #18, annex C) beside letters."""
    categories = ("Mn", "Mc", "Me", "Nd", "Nl", "Pc")
    marked = [c for c in range(0x110000) if unicodedata.category(chr(c)) in categories]
    return sorted([*marked, *ALPHABETIC_SYMBOLS, *JOIN_CONTROLS])


def ranges(code_points: Iterable[int]) -> Iterator[str]:
    """Runs of neighbouring code points as "first-last", or "first" alone."""
    for _, run in itertools.groupby(enumerate(code_points), lambda pair: pair[1] - pair[0]):
        points = [code_point for _, code_point in run]
        yield f"{points[0]:X}" if len(points) == 1 else f"{points[0]:X}-{points[-1]:X}"


def main() -> None:
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise SystemExit(
            f"Found Unicode {unicodedata.unidata_version}, need {UNICODE_VERSION}: "
            f"pip install unicodedata2=={UNICODE_VERSION}"
        )
    print(HEADER.format(version=UNICODE_VERSION), end="")
    classes = {
        "LETTERS": ("General category L.", with_category("L")),
        "NUMBERS": ("General category N.", with_category("N")),
        "SPACES": ("Property White_Space.", WHITE_SPACE),
        "WORD_CHARACTERS": (
            "Beside letters, what is part of a word: marks, digits, connectors, joiners.",
            word_characters(),
        ),
    }
    for name, (description, code_points) in classes.items():
        body = textwrap.fill(" ".join(ranges(code_points)), 98, break_on_hyphens=False)
        print(f'\n# {description}\n{name} = """\n{body}\n"""')


if __name__ == "__main__":
    main()
