"""A tokenizer for tiny models, and grammars with checks of the texts that they allow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.tokenization.bpe import byte_to_unicode

MERGES = ("t h", "th e", "a n", "an d", "i n", '" :', '": Ġ', "1 2", "y e", "ye s")
EOS = 256 + len(MERGES)
#: Some ids more than the tokenizer has.
VOCAB_SIZE = EOS + 12

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "grün", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "age", "colour", "tags"],
    "additionalProperties": False,
}
REGEX = r"(the|and)( [a-f]{1,3}){2}[.!]é?"
CHOICES = ["yes", "no", 'yes, "and"\n', "ye"]
LARK = 'start: value ("+" value){0,3}\nvalue: /[0-9]{1,2}/ | "(" /[0-9]/ ")"'


def small_tokenizer(kind: Any = GPT2Tokenizer) -> GPT2Tokenizer | GPT2TokenizerFast:
    """Return a tokenizer of all bytes, a few merges and ``<|endoftext|>``, EOS."""
    merges = [tuple(merge.split()) for merge in MERGES]
    tokens = [*byte_to_unicode().values(), *("".join(merge) for merge in merges), "<|endoftext|>"]
    return kind({token: i for i, token in enumerate(tokens)}, merges)


def is_of_schema(text: str) -> bool:
    """Return whether a text is JSON of SCHEMA."""
    value = json.loads(text)
    return (
        list(value) == list(SCHEMA["properties"])
        and isinstance(value["name"], str)
        and len(value["name"]) <= 5
        and type(value["age"]) is int
        and 0 <= value["age"] <= 120
        and value["colour"] in ("red", "grün", None)
        and len(value["tags"]) <= 2
        and all(isinstance(tag, bool) for tag in value["tags"])
    )


def is_of_lark(text: str) -> bool:
    """Return whether a text is of LARK."""
    return bool(re.fullmatch(r"(\d{1,2}|\(\d\))(\+(\d{1,2}|\(\d\))){0,3}", text))


#: The arguments of `generate`, and whether a text is what they allow.
GRAMMARS: dict[str, tuple[dict[str, Any], Callable[[str], Any]]] = {
    "json_schema": ({"json_schema": SCHEMA}, is_of_schema),
    "regex": ({"regex": REGEX}, lambda text: re.fullmatch(REGEX, text)),
    "choices": ({"choices": CHOICES}, CHOICES.__contains__),
    "grammar": ({"grammar": LARK}, is_of_lark),
}


def texts_of(rows: Any, prompt_length: int, tokenizer: Any, eos: int = EOS) -> list[str]:
    """Return the new texts of ids [R, length], each of which must have ended."""
    texts = []
    for row in np.asarray(rows)[:, prompt_length:].tolist():
        assert eos in row, f"the text has not ended: {tokenizer.decode(row)!r}"
        texts.append(tokenizer.decode(row[: row.index(eos)], clean_up_tokenization_spaces=False))
    return texts
