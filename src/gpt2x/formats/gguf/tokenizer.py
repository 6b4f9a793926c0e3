"""The tokenizer in the header of a GGUF file: of GPT-2's kind, or a note that there is none.

In llama.cpp each token has a type: ordinary tokens, written in the characters that represent bytes;
control tokens, which ordinary text never gives, and tokens of the user, both written as they are;
and unused ids, which fill the list up to the model's rows. Source: llama.cpp's
``convert_hf_to_gguf.py`` (``get_vocab_base``, ``_set_vocab_none``) and ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.gguf.layout import ARCHITECTURE, ARRAY, BOOL, INT32, STRING, UINT32
from gpt2x.storage.budget import VALUE, Budget

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config
    from gpt2x.tokenization import GPT2Tokenizer

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_ADDED_TOKEN = 2048  # bytes of an added token's options, as objects and as text

# Role -> the key of its id; "seperator" is the format's own spelling.
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
#: The ids that a model's config has too: config field -> key.
CONFIG_IDS = {
    f"{role}_id": f"tokenizer.ggml.{_ROLES[role]}"
    for role in ("bos_token", "eos_token", "sep_token", "pad_token")
}


# Writing ------------------------------------------------------------------------------------------


def to_pairs(tokenizer: GPT2Tokenizer | None, config: GPT2Config) -> dict[str, tuple[int, Any]]:
    """Return key -> (type, value) of the header.

    Without a tokenizer llama.cpp takes and gives only ids.

    Raises:
        InvalidInputError: if the vocabulary has ids for which the model has no rows.
    """
    if tokenizer is None:
        kind = {
            "tokenizer.ggml.model": (STRING, "none"),
            f"{ARCHITECTURE}.vocab_size": (UINT32, config.vocab_size),
        }
        return kind | _role_ids(None, config)
    tokens, types = _tokens(tokenizer, config.vocab_size)
    merges = [" ".join(merge) for merge in tokenizer.bpe_ranks]
    pairs: dict[str, tuple[int, Any]] = {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, types)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
        "tokenizer.ggml.add_bos_token": (BOOL, tokenizer.add_bos_token),
    }
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is not None:
        pairs["tokenizer.chat_template"] = (STRING, template)
    return pairs | _role_ids(tokenizer, config)


def _tokens(tokenizer: GPT2Tokenizer, rows: int) -> tuple[list[str], list[int]]:
    """Return the token and the type of each row of the model."""
    added = tokenizer.added_tokens_decoder
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    beyond = {number: token for number, token in by_id.items() if number >= rows}
    if excess := [number for number in beyond if number not in added]:
        raise InvalidInputError(
            f"The tokenizer has the id {max(excess)}, but the model only {rows} rows; it is "
            "another model's tokenizer."
        )
    if beyond:
        warnings.warn(
            f"The model has no rows for the added tokens {beyond}; llama.cpp's tokenizer will be "
            "without them. To keep them, resize the model's embeddings first.",
            stacklevel=2,
        )
    types = {number: _CONTROL if added[number].special else _USER_DEFINED for number in added}
    return (
        [by_id.get(number, f"[PAD{number}]") for number in range(rows)],
        [types.get(n, _NORMAL) if n in by_id else _UNUSED for n in range(rows)],
    )


def _role_ids(tokenizer: GPT2Tokenizer | None, config: GPT2Config) -> dict[str, tuple[int, Any]]:
    """Return the ids of special tokens: those of the model's generation, else the tokenizer's."""
    pairs: dict[str, tuple[int, Any]] = {}
    for role, key in _ROLES.items():
        for owner in (config, tokenizer):
            number = getattr(owner, f"{role}_id", None)
            number = number[0] if isinstance(number, list) and number else number
            # A config may keep GPT-2's default of 50256 although the vocabulary is smaller.
            if type(number) is int and 0 <= number < config.vocab_size:
                pairs[f"tokenizer.ggml.{key}"] = (UINT32, number)
                break
    return pairs


# Reading ------------------------------------------------------------------------------------------


def to_files(pairs: Mapping[str, Any], budget: Budget) -> dict[str, bytes]:
    """Return file name -> contents of the tokenizer in a header, for transformers; may be empty.

    The files take more memory than the header; `budget` is charged for it.

    Raises CheckpointError if entries of the header have the wrong type or length.
    """
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    if str(pairs.get("tokenizer.ggml.model")) != "gpt2" or not pairs.keys() >= set(keys):
        return {}
    tokens, merges = (_strings(pairs, key) for key in keys)
    types = _types(pairs, len(tokens))
    budget.charge(4 * VALUE * (len(tokens) + len(merges)), "tokens")
    described = len(types) - types.count(_NORMAL) - types.count(_UNUSED)
    budget.charge(_ADDED_TOKEN * described, "added tokens")
    vocabulary = {
        token: number
        for number, (token, type) in enumerate(zip(tokens, types, strict=True))
        if type != _UNUSED
    }
    added = {
        number: {"content": tokens[number], "special": type == _CONTROL}
        | dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
        for number, type in enumerate(types)
        if type in (_CONTROL, _USER_DEFINED)
    }
    settings: dict[str, Any] = {"added_tokens_decoder": added, "tokenizer_class": "GPT2Tokenizer"}
    if isinstance(length := pairs.get(f"{ARCHITECTURE}.context_length"), int):
        settings["model_max_length"] = length
    for role, key in _ROLES.items():
        # If an ordinary token has a role, ordinary text must still be able to contain it.
        number = pairs.get(f"tokenizer.ggml.{key}")
        if isinstance(number, int) and number in added:
            settings[role] = tokens[number]
    special = [entry["content"] for entry in added.values() if entry["special"]]
    if others := [token for token in special if token not in settings.values()]:
        settings["additional_special_tokens"] = others
    if isinstance(pairs.get("tokenizer.ggml.add_bos_token"), bool) and "bos_token" in settings:
        settings["add_bos_token"] = pairs["tokenizer.ggml.add_bos_token"]
    if isinstance(pairs.get("tokenizer.chat_template"), str):
        settings["chat_template"] = pairs["tokenizer.chat_template"]
    return {
        "vocab.json": _encoded(json.dumps(vocabulary, ensure_ascii=False)),
        "merges.txt": _encoded("\n".join(["#version: 0.2", *merges]) + "\n"),
        "tokenizer_config.json": _encoded(json.dumps(settings, ensure_ascii=False, indent=2)),
    }


def _strings(pairs: Mapping[str, Any], key: str) -> list[str]:
    value = pairs[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CheckpointError(f"{key} is not a list of strings")
    return value


def _types(pairs: Mapping[str, Any], count: int) -> list[int]:
    value = pairs.get("tokenizer.ggml.token_type")
    if value is None:
        return [_NORMAL] * count
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or len(value) != count:
        raise CheckpointError("tokenizer.ggml.token_type does not give each token its type")
    return value.tolist()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # bytes of the header that are not UTF-8 become "?"
