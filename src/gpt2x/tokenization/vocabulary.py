"""A tokenizer's vocabulary, and its two forms in files.

They are vocab.json with merges.txt (or OpenAI's encoder.json with vocab.bpe), and the
tokenizer.json of the `tokenizers` library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import read_json, read_text
from gpt2x.tokenization.bpe import Merge
from gpt2x.tokenization.template import Template, byte_level

PathLike = str | os.PathLike[str]

_VERSION_LINE = "#version: 0.2"
_MAX_IDS = 2**31  # ids have 32 bits in the tokenizers library and in the inputs of many models
_MERGE = 400  # bytes of a merge: its line, its pair of tokens and its entry in the table of ranks

# Options of a BPE model in tokenizer.json that GPT-2's does not use: each changes ids.
_UNUSED_MODEL_OPTIONS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


@dataclass
class Vocabulary:
    """Tokens and merges, and the other settings of a tokenizer.json.

    Attributes:
        tokens: id of each token. The characters of a token represent bytes (`byte_to_unicode`).
        merges: pairs of tokens, the first to merge first.
        added_tokens: added tokens by id.
        template: the special tokens around texts; None if unknown.
        add_prefix_space: whether texts are encoded as if after a space; None if unknown.
    """

    tokens: dict[str, int]
    merges: list[Merge]
    added_tokens: dict[int, AddedToken] = field(default_factory=dict)
    template: Template | None = None
    add_prefix_space: bool | None = None

    def __post_init__(self) -> None:
        for token, token_id in self.tokens.items():
            is_id = type(token_id) is int and 0 <= token_id < _MAX_IDS
            if not isinstance(token, str) or not is_id:
                raise CheckpointError(
                    f"The vocabulary maps {token!r} to {token_id!r:.40}; it must map strings to "
                    f"integers of at least 0, below {_MAX_IDS}."
                )
        if len(set(self.tokens.values())) != len(self.tokens):
            raise CheckpointError("The vocabulary gives two tokens the same id.")
        for left, right in self.merges:
            for token in (left, right, left + right):
                if token not in self.tokens:
                    raise CheckpointError(
                        f"The merge of {left!r} and {right!r} needs the token {token!r}, which "
                        "the vocabulary lacks. Do the two files belong together?"
                    )

    @classmethod
    def from_arguments(
        cls, where: str, vocab: Any, merges: Any, tokenizer: PathLike | Mapping[str, Any] | None
    ) -> Vocabulary:
        """Read the arguments of a tokenizer's constructor: see `from_parts`, `from_tokenizer_json`.

        Raises:
            InvalidInputError: if they are not enough.
        """
        if isinstance(vocab, cls):
            return vocab
        if tokenizer is not None:
            return cls.from_tokenizer_json(tokenizer)
        if vocab is None or merges is None:
            raise InvalidInputError(
                f"{where} needs vocab_file and merges_file, or tokenizer_file. To load a folder or "
                f"a model of the hub: {where}.from_pretrained(...)."
            )
        return cls.from_parts(vocab, merges)

    @classmethod
    def from_parts(
        cls, vocab: PathLike | Mapping[str, int], merges: PathLike | Iterable[Any]
    ) -> Vocabulary:
        """Make a vocabulary of tokens and merges, each a file or its content.

        Args:
            vocab: path of a vocab.json, or id by token.
            merges: path of a merges.txt, or "a b" strings or (a, b) pairs.

        Raises:
            CheckpointError: for files that cannot be read or do not fit together.
        """
        if isinstance(vocab, (str, os.PathLike)):
            vocab = read_json(vocab)
        if not isinstance(vocab, Mapping):
            raise CheckpointError(
                f"A vocabulary must be a JSON object, not {type(vocab).__name__}."
            )
        if isinstance(merges, (str, os.PathLike)):
            merges = _merge_lines(merges)
        return cls(dict(vocab), parse_merges(merges))

    @classmethod
    def from_tokenizer_json(cls, source: PathLike | Mapping[str, Any]) -> Vocabulary:
        """Read a tokenizer.json: a path, or its content.

        Raises:
            CheckpointError: if it is not a tokenizer of GPT-2's kind.
        """
        if isinstance(source, Mapping):
            where, state = "The tokenizer", source
        else:
            where, state = str(source), read_json(source)
        try:
            model = state["model"]
            _check_pipeline(where, state)
            added = {entry["id"]: added_token(entry) for entry in state.get("added_tokens") or []}
            return cls(
                dict(model["vocab"]),
                parse_merges(model["merges"]),
                added,
                Template.from_post_processor(state.get("post_processor")),
                bool(state["pre_tokenizer"].get("add_prefix_space", False)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{where} is not a valid tokenizer.json: {error!r}.") from error

    def to_tokenizer_json(self) -> dict[str, Any]:
        """Return the content of a tokenizer.json.

        It names "ByteLevel" for the splitting of text, which every reader of such files knows; its
        Unicode version is today the pinned one (see `unicode`).
        """
        ids = {token.content: token_id for token_id, token in self.added_tokens.items()}
        template = self.template or Template()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": token_id, **added_token_state(token)}
                for token_id, token in sorted(self.added_tokens.items())
            ],
            "normalizer": None,
            "pre_tokenizer": byte_level(
                add_prefix_space=bool(self.add_prefix_space), trim_offsets=True
            ),
            "post_processor": template.to_post_processor({**self.tokens, **ids}),
            "decoder": byte_level(add_prefix_space=True, trim_offsets=True),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self._tokens_by_id(),
                "merges": self._merge_lines(),
            },
        }

    def ranks(self) -> dict[Merge, int]:
        """Return the rank of each merge; the lowest comes first."""
        return {merge: rank for rank, merge in enumerate(self.merges)}

    def vocab_json(self) -> str:
        """Return the content of a vocab.json."""
        return json.dumps(self._tokens_by_id(), ensure_ascii=False) + "\n"

    def merges_txt(self) -> str:
        """Return the content of a merges.txt."""
        return "\n".join([_VERSION_LINE, *self._merge_lines()]) + "\n"

    def _tokens_by_id(self) -> dict[str, int]:
        return dict(sorted(self.tokens.items(), key=lambda item: item[1]))

    def _merge_lines(self) -> list[str]:
        for merge in self.merges:
            if any(character in token for token in merge for character in " \n"):
                raise InvalidInputError(
                    f"The merge {merge!r} holds white space, which the files cannot tell from "
                    "their separators."
                )
        return [" ".join(merge) for merge in self.merges]


def parse_merges(merges: Iterable[Any]) -> list[Merge]:
    """Read merges given as "a b" strings or as pairs."""
    parsed = []
    for number, merge in enumerate(merges, 1):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        if len(pair) != 2 or not all(isinstance(token, str) and token for token in pair):
            raise CheckpointError(
                f"Merge {number} is {merge!r}; it must be two tokens with a space between them."
            )
        parsed.append(pair)
    return parsed


def _merge_lines(path: PathLike) -> list[str]:
    """Read the lines of a merges.txt; the version line and a final line break are optional."""
    text = read_text(path)
    Budget(str(path), len(text)).charge(_MERGE * text.count("\n"), "merges")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[0].startswith("#version"):
        lines = lines[1:]
    return [line for line in lines if line]


def _check_pipeline(where: str, state: Mapping[str, Any]) -> None:
    """Raise unless a tokenizer.json is that of a GPT-2 tokenizer."""
    model = state["model"]
    found = {
        "model": model.get("type", "BPE"),
        "pre_tokenizer": (state.get("pre_tokenizer") or {}).get("type"),
        "normalizer": (state.get("normalizer") or {}).get("type"),
    }
    expected = {"model": "BPE", "pre_tokenizer": "ByteLevel", "normalizer": None}
    wrong = [f"{part} {found[part]!r}" for part in found if found[part] != expected[part]]
    wrong += [
        f"BPE option {name}={model[name]!r}" for name in _UNUSED_MODEL_OPTIONS if model.get(name)
    ]
    if not wrong and not state["pre_tokenizer"].get("use_regex", True):
        wrong.append("pre_tokenizer option use_regex=False")
    if wrong:
        raise CheckpointError(
            f"{where} is not GPT-2's tokenizer: it has {', '.join(wrong)}. "
            "Use it through the tokenizers library: tokenizers.Tokenizer.from_file(...)."
        )


# Added tokens in JSON -----------------------------------------------------------------------------

_ADDED_TOKEN_OPTIONS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_token(state: Mapping[str, Any], **changes: bool) -> AddedToken:
    """Make an AddedToken of its JSON form; any option may be missing."""
    options = {name: state[name] for name in _ADDED_TOKEN_OPTIONS if name in state}
    return AddedToken(state["content"], **{**options, **changes})


def added_token_state(token: AddedToken) -> dict[str, Any]:
    """Return the JSON form of an AddedToken."""
    options = {name: getattr(token, name) for name in _ADDED_TOKEN_OPTIONS}
    return {"content": token.content, **options}
