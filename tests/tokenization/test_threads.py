"""One tokenizer in several threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast


def test_the_first_texts_may_come_at_once():
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    expected = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL).encode("And the king said")
    together = threading.Barrier(8)

    def encode(_: int) -> list[int]:
        together.wait()
        return tokenizer.encode("And the king said")

    with ThreadPoolExecutor(8) as pool:
        assert all(tokens == expected for tokens in pool.map(encode, range(8)))
