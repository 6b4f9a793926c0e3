"""The public API of a tokenizer's tokens: ids, added tokens, and special tokens as attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError, check_choice, did_you_mean
from gpt2x.tokenization.assembler import to_list
from gpt2x.tokenization.bpe import Merge
from gpt2x.tokenization.special_tokens import ADDITIONAL, NAMED_TOKENS, Token, is_token
from gpt2x.tokenization.token_table import TokenTable
from gpt2x.tokenization.vocabulary import Vocabulary
from gpt2x.unavailable import TOKENIZER, LacksNames, explain


class TokenAPI(LacksNames):
    """Tokens by text, id and role.

    Each role is an attribute, `pad_token`, and so is its id, `pad_token_id`. A role without a token
    is None, as is its id. Setting a role does not change the vocabulary: `add_special_tokens` does
    both.

    Args:
        vocabulary: the tokens and merges.
    """

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[list[str]] = [*NAMED_TOKENS, ADDITIONAL]
    _unavailable = TOKENIZER

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._table = TokenTable(vocabulary)

    # Special tokens as attributes -----------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Not by attribute: it is missing until the constructor, or pickle, has set it.
        table = self.__dict__.get("_table")
        role, is_id = _role(name)
        if table is not None and role in table.special:
            return table.role_ids(role) if is_id else table.special.text(role)
        explain(type(self), name)
        public = [known for known in dir(self) if not known.startswith("_")]
        hint = did_you_mean(name, [*public, *(table.special.by_role if table else ())])
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        role, is_id = _role(name)
        if "_table" not in self.__dict__ or role not in self._table.special:
            super().__setattr__(name, value)
            return
        if is_id and value is not None:
            tokens = self.convert_ids_to_tokens(value)
            if tokens is None or (isinstance(tokens, list) and None in tokens):
                raise InvalidInputError(f"{name} is {value!r}, and no token has that id.")
            value = tokens
        self._set_role(role, value)

    def _set_role(self, role: str, value: Any) -> None:
        self._table.special.set(role, value)

    @property
    def _special_tokens_map(self) -> dict[str, Any]:
        return self._table.special.by_role  # transformers' name, which code in the wild reads

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The roles that have a token, with its text."""
        return self._table.special.texts()

    @property
    def special_tokens_map_extended(self) -> dict[str, Token | list[Token]]:
        """The roles that have a token, and it as it was given, AddedToken options included."""
        return {role: value for role, value in self._table.special.by_role.items() if value}

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, in the order of the roles."""
        return list(self._table.special.tokens())

    @property
    def all_special_tokens_extended(self) -> list[Token]:
        """Every special token once, in the order of the roles, AddedToken options included."""
        return list(self._table.special.tokens().values())

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens` that the vocabulary holds."""
        ids = map(self.token_to_id, self.all_special_tokens)
        return [token_id for token_id in ids if token_id is not None]

    # From tokens to ids and back ------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added ones; `len(tokenizer)` counts those too."""
        return len(self._table.vocabulary.tokens)

    def __len__(self) -> int:
        return len(self._table)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return self._table.ids()

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        return self.get_vocab()

    @property
    def bpe_ranks(self) -> dict[Merge, int]:
        """The rank of each pair of tokens; the lowest is merged first."""
        return self._table.vocabulary.ranks()

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary has no such token."""
        return self._table.id_of(token)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the ids of a list of tokens.

        A token that the vocabulary lacks has the id of `unk_token` (None without one).
        """
        if tokens is None:
            return None
        if is_token(tokens):
            token_id = self.token_to_id(str(tokens))
            return self._table.unknown_id() if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of several; None for an id that has none."""
        ids = to_list(ids)
        if not isinstance(ids, list):
            return self._table.text_of(ids)
        skipped = self._table.special_ids() if skip_special_tokens else ()
        return [self._table.text_of(token_id) for token_id in ids if token_id not in skipped]

    # Added tokens ---------------------------------------------------------------------------------

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The id of each added token, special ones included."""
        return self._table.added.ids

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id, special ones included."""
        return self._table.added.by_id

    def get_added_vocab(self) -> dict[str, int]:
        """Return the id of each added token, special ones included."""
        return self._table.added.ids

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that are found in text whole, before it is split into words.

        A token that the vocabulary has already keeps its id.

        Args:
            new_tokens: a token or a list of them, each a string or an AddedToken, whose options say
                whether it takes along white space on its left (`lstrip`) or right (`rstrip`), and
                whether it only counts where it stands alone (`single_word`).
            special_tokens: whether they are special: skipped by `decode(skip_special_tokens=True)`.

        Returns:
            How many tokens are new. Resize the model's embeddings to ``len(tokenizer)`` if any.
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        before = len(self._table)
        for token in new_tokens or []:
            if not is_token(token):
                raise InvalidInputError(
                    f"{token!r} is not a token: it must be a str or AddedToken."
                )
            if str(token):
                self._table.add(self._table.as_added_token(token, special=special_tokens))
        return len(self._table) - before

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give roles their tokens, and add those tokens that the vocabulary lacks.

        Args:
            special_tokens_dict: token (or, for "additional_special_tokens", a list of them) by
                role, such as ``{"pad_token": "<pad>"}``.
            replace_additional_special_tokens: whether a list of additional tokens replaces the one
                that was set, or extends it.

        Returns:
            How many tokens are new. Resize the model's embeddings to ``len(tokenizer)`` if any.

        Raises:
            InvalidInputError: for an unknown role, or a value that is not a token.
        """
        special = self._table.special
        added: list[Token] = []
        for role in special_tokens_dict:
            check_choice("A special token's role", role, list(special.by_role))
        for role, value in special_tokens_dict.items():
            self._set_role(role, special.to_assign(role, value, replace_additional_special_tokens))
            assigned = special.by_role[role]
            added += assigned if isinstance(assigned, list) else [assigned]
        return self.add_tokens(added, special_tokens=True)

    def sanitize_special_tokens(self) -> int:
        """Add the special tokens that the vocabulary lacks; return how many those are."""
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)


def _role(name: str) -> tuple[str, bool]:
    """Split an attribute's name into the role it speaks of and whether it means ids."""
    if name == f"{ADDITIONAL}_ids":
        return ADDITIONAL, True
    return (name[:-3], True) if name.endswith("_id") else (name, False)
