"""Grammars that new text must match, by the library llguidance.

B prompts, R rows given to the model, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from gpt2x.backends import require_library
from gpt2x.errors import CheckpointError, InvalidInputError, listed
from gpt2x.tokenization.bpe import token_to_bytes
from gpt2x.tokenization.engine import RegexEngine
from gpt2x.tokenization.token_table import TokenTable
from gpt2x.tokenization.vocabulary import Vocabulary

#: JSON is written as `json.dumps` writes it. With any white space allowed, a small model may write
#: nothing else; "x-guidance" in a schema overrides this.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Grammar:
    """A grammar for new text, not yet compiled for a vocabulary.

    Attributes:
        name: the argument of `generate` that gave it.
        source: its text, for llguidance.
        tokenizer: that of the model.
    """

    name: str
    source: str
    tokenizer: Any

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Grammar | None:
        """Return the grammar of the arguments of `generate`; None if none is given.

        Raises:
            InvalidInputError: if more than one is given, one is of the wrong type, or the tokenizer
                is missing.
            MissingBackendError: if llguidance is not installed.
        """
        arguments = {
            "regex": (regex, _regex),
            "json_schema": (json_schema, _json_schema),
            "choices": (choices, _choices),
            "grammar": (grammar, _lark),
        }
        given = [name for name, (value, _) in arguments.items() if value is not None]
        if not given:
            return None
        if len(given) > 1:
            raise InvalidInputError(
                f"generate() got {' and '.join(f'{name}=' for name in given)}; a text can be "
                f"constrained by one of {', '.join(arguments)}."
            )
        name = given[0]
        if tokenizer is None:
            raise InvalidInputError(
                f"{name}= needs a tokenizer to know the text of each token; pass tokenizer= to "
                "generate()."
            )
        value, source_of = arguments[name]
        try:
            return cls(name, source_of(llguidance().LLMatcher, value), tokenizer)
        except UnicodeEncodeError as error:  # half a surrogate pair
            raise InvalidInputError(f"{name}= is not valid text: {error}.") from error

    def matcher(self, vocab_size: int, eos: Sequence[int]) -> Any:
        """Compile the grammar for a model: an `LLMatcher` at the start of a text.

        Args:
            vocab_size: V, of the model; it may be larger than the tokenizer's.
            eos: the ids that end a text.

        Raises:
            InvalidInputError: if the grammar is not valid, or the tokens cannot write every text.
        """
        if not eos:
            raise InvalidInputError(
                f"{self.name}= needs an eos token, which ends a text where the grammar ends; "
                "pass eos_token_id= to generate()."
            )
        tokens = token_bytes(self.tokenizer, vocab_size, tuple(sorted(eos)))
        matcher = llguidance().LLMatcher(tokens, self.source, log_level=0)
        if matcher.is_error():
            raise InvalidInputError(f"{self.name}= cannot be used: {matcher.get_error().strip()}")
        return matcher


def llguidance(module: str = "llguidance") -> Any:
    """Import the library, or a module of it."""
    return require_library(module, "Text constrained to a grammar", "guided")


def _regex(compiler: Any, regex: Any) -> str:
    return compiler.grammar_from_regex(_checked("regex", regex, str, "a string"))


def _lark(compiler: Any, grammar: Any) -> str:
    return compiler.grammar_from_lark(_checked("grammar", grammar, str, "a text in Lark's syntax"))


def _choices(compiler: Any, choices: Any) -> str:
    items = list(_checked("choices", choices, (list, tuple), "a list of strings"))
    if not items or not all(isinstance(item, str) for item in items):
        raise InvalidInputError(
            f"choices must be a list of strings, at least one; got {choices!r:.80}."
        )
    # Lark's strings have JSON's escapes.
    return compiler.grammar_from_lark("start: " + " | ".join(map(json.dumps, items)))


def _json_schema(compiler: Any, schema: Any) -> str:
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        text = json.dumps(_checked("json_schema", schema, Mapping, "a JSON object"))
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"json_schema is not valid JSON: {error}.") from error
    return compiler.grammar_from_json_schema(text, defaults=_JSON_STYLE)


def _checked(name: str, value: Any, kind: Any, allowed: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidInputError(f"{name} must be {allowed}; got {type(value).__name__}.")
    return value


# ---- the tokens --------------------------------------------------------------------------------

#: For each tokenizer, its last `LLTokenizer`, which takes half a second to make, and for what.
_TOKENS: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


def token_bytes(tokenizer: Any, vocab_size: int, eos: tuple[int, ...]) -> Any:
    """Return the bytes of every token of a model as an `LLTokenizer`, which is kept.

    Raises:
        InvalidInputError: if the tokenizer is not of GPT-2's kind or does not fit the model, or if
            some bytes have no token.
    """
    if not hasattr(tokenizer, "current_vocabulary") and not hasattr(tokenizer, "backend_tokenizer"):
        raise _unknown_kind(tokenizer)
    key = (len(tokenizer) if hasattr(tokenizer, "__len__") else None, vocab_size, eos)
    known, tokens = _TOKENS.get(tokenizer, (None, None))
    if known != key:
        library, table = llguidance(), _Tokens(vocabulary_of(tokenizer), vocab_size, eos)
        tokens = library.LLTokenizer(
            library.TokenizerWrapper(table), n_vocab=vocab_size, eos_token=list(eos)
        )
        _TOKENS[tokenizer] = (key, tokens)
    return tokens


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of one of our tokenizers or of a fast tokenizer of transformers.

    Raises:
        InvalidInputError: if the tokenizer is another, or not of GPT-2's kind.
    """
    if hasattr(tokenizer, "current_vocabulary"):
        return tokenizer.current_vocabulary()
    try:
        return Vocabulary.from_tokenizer_json(json.loads(tokenizer.backend_tokenizer.to_str()))
    except CheckpointError as error:
        raise _unknown_kind(tokenizer) from error


def _unknown_kind(tokenizer: Any) -> InvalidInputError:
    return InvalidInputError(
        "A grammar needs a GPT2Tokenizer, GPT2TokenizerFast or TFGPT2Tokenizer, or a fast "
        f"tokenizer of transformers that is of GPT-2's kind; got {type(tokenizer).__name__}."
    )


class _Tokens:
    """The tokens of a model, with the attributes and the call that llguidance expects.

    It refers to no tokenizer, so that `_TOKENS` keeps none alive.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos: tuple[int, ...]) -> None:
        added = vocabulary.added_tokens
        trained = {t: i for t, i in vocabulary.tokens.items() if i not in added}
        largest = max(trained.values(), default=-1)
        if largest >= vocab_size:
            raise InvalidInputError(
                f"The tokenizer has the ids 0 to {largest}, but the model only those below "
                f"{vocab_size}; they do not belong together."
            )
        # Ids that have no token stand for no bytes, and so are never allowed. Added tokens that the
        # model lacks are left out: a pad token often is one.
        self.tokens = [b""] * vocab_size
        for token, token_id in trained.items():
            self.tokens[token_id] = token_to_bytes(token)
        for token_id, entry in added.items():
            if token_id < vocab_size:
                self.tokens[token_id] = entry.content.encode()
        special = {i for i, entry in added.items() if entry.special and i < vocab_size} | {*eos}
        plain = {token: i for token, i in trained.items() if i not in special}
        self.eos_token_id = eos[0]
        self.special_token_ids = sorted(special)
        _check_bytes(map(token_to_bytes, plain))
        merges = [
            (left, right)
            for left, right in vocabulary.merges
            if left in plain and right in plain and left + right in plain
        ]
        self._encoder = RegexEngine(TokenTable(Vocabulary(plain, merges)))

    def __call__(self, text: str) -> list[int]:
        """Encode text that the grammar leaves no choice about."""
        if not isinstance(text, str):
            raise TypeError("expected a str")  # llguidance tries bytes first
        return self._encoder.encode([[text]])[0].ids


def _check_bytes(tokens: Any) -> None:
    found = {token for token in tokens if len(token) == 1}
    missing = [repr(byte) for byte in (bytes([i]) for i in range(256)) if byte not in found]
    if missing:
        raise InvalidInputError(
            f"A grammar needs a token for each byte, and there is none for {listed(missing)} that "
            "is neither special nor an eos. Use a tokenizer with all 256 bytes, and an "
            "eos_token_id that stands for no text."
        )
