"""Records with labels that a tiny model learns in a few steps, and such a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2x import EMBEDDED_MODEL, GPT2Config, GPT2TokenizerFast
from gpt2x.train.initial import write_initial
from gpt2x.weights.table import Head

TEXTS = {
    "good": ["love is sweet", "joy and grace, said he", "a fine day", "a sweet song to a king"],
    "bad": ["hate is bitter", "grief and shame, said he", "a foul day", "a bitter cry to a king"],
}
SENTENCES = [
    (["Tom", "went", "to", "old", "Rome"], ["B-PER", "O", "O", "B-LOC", "I-LOC"]),
    (["Ann", "saw", "Paris"], ["B-PER", "O", "B-LOC"]),
    (["In", "Rome", "they", "sang"], ["O", "B-LOC", "O", "O"]),
    (["Good", "King", "John", "sang"], ["O", "O", "B-PER", "O"]),
]


NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"), 0.0)


def tiny_model(folder: Path, head: Head = Head.LM, **config: Any) -> str:
    """Write a new model with the embedded model's tokenizer; return its folder.

    It has no dropout unless the config says so.
    """
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64}
    shape |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    write_initial(folder, GPT2Config(**{**shape, **NO_DROPOUT, **config}), head, 0)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write JSON lines; return the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def classified(labels: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return texts with labels: "good" and "bad", or others in their places."""
    labels = labels or {}
    return [
        {"text": text, "label": labels.get(name, name)}
        for name, texts in TEXTS.items()
        for text in texts
    ]


def tagged() -> list[dict[str, Any]]:
    """Return words with the labels of their entities."""
    return [{"tokens": words, "ner_tags": tags} for words, tags in SENTENCES]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
