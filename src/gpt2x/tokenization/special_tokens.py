"""Special tokens as attributes of a tokenizer: `bos_token`, `pad_token_id` and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError, check_choice, did_you_mean
from gpt2x.unavailable import TOKENIZER, explain

Token = str | AddedToken

#: The named special tokens, in transformers' order. Each is an attribute, and with "_id" its id.
NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
ADDITIONAL = "additional_special_tokens"


class SpecialTokensMixin:
    """Special tokens by role.

    A role without a token is None, as is its id. Setting a role does not change the vocabulary:
    `add_special_tokens` does both.
    """

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[list[str]] = [*NAMED_TOKENS, ADDITIONAL]

    _special_tokens_map: dict[str, Any]

    def _clear_special_tokens(self) -> None:
        # Not by attribute: `__setattr__` looks for roles in it.
        self.__dict__["_special_tokens_map"] = dict.fromkeys(NAMED_TOKENS)
        self._special_tokens_map[ADDITIONAL] = []

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary has no such token."""
        raise NotImplementedError

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of each id."""
        raise NotImplementedError

    # Attributes -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        special_tokens = self.__dict__.get("_special_tokens_map", {})
        role, is_id = _role(name)
        if role in special_tokens:
            value = special_tokens[role]
            if role == ADDITIONAL and value is not None:
                contents = [str(token) for token in value]
                return [self._special_id(role, token) for token in contents] if is_id else contents
            if value is None:
                return None
            return self._special_id(role, str(value)) if is_id else str(value)
        explain(type(self), name, TOKENIZER)
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        hint = did_you_mean(name, [*public, *special_tokens])
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        role, is_id = _role(name)
        if role not in self.__dict__.get("_special_tokens_map", {}):
            super().__setattr__(name, value)
            return
        if is_id and value is not None:
            value = self._tokens_of_ids(name, value)
        self._set_special_token(role, value)

    def _tokens_of_ids(self, name: str, ids: Any) -> Any:
        tokens = self.convert_ids_to_tokens(ids)
        if tokens is None or (isinstance(tokens, list) and None in tokens):
            raise InvalidInputError(f"{name} is {ids!r}, and no token has that id.")
        return tokens

    def _set_special_token(self, role: str, value: Any) -> None:
        if role == ADDITIONAL and value is not None:
            if not isinstance(value, (list, tuple)) or not all(map(_is_token, value)):
                raise InvalidInputError(
                    f"{role} is {value!r}; it must be a list of strings or AddedTokens."
                )
            value = list(value)
        elif value is not None and not _is_token(value):
            raise InvalidInputError(f"{role} is {value!r}; it must be a string or an AddedToken.")
        self._special_tokens_map[role] = value

    def _special_id(self, role: str, token: str) -> int:
        token_id = self.token_to_id(token)
        if token_id is None:
            entry = [token] if role == ADDITIONAL else token
            raise InvalidInputError(
                f"{role} is {token!r}, which has no id yet. Give it one with "
                f"tokenizer.add_special_tokens({{{role!r}: {entry!r}}})."
            )
        return token_id

    # Views ----------------------------------------------------------------------------------------

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The roles that have a token, and its text."""
        return {
            role: [str(token) for token in value] if isinstance(value, list) else str(value)
            for role, value in self._special_tokens_map.items()
            if value
        }

    @property
    def special_tokens_map_extended(self) -> dict[str, Token | list[Token]]:
        """The roles that have a token, and it as it was given, AddedToken options included."""
        return {role: value for role, value in self._special_tokens_map.items() if value}

    @property
    def all_special_tokens_extended(self) -> list[Token]:
        """Every special token once, in the order of the roles, AddedToken options included."""
        tokens: dict[str, Token] = {}
        for value in self._special_tokens_map.values():
            for token in value if isinstance(value, list) else [value]:
                if token is not None:
                    tokens.setdefault(str(token), token)
        return list(tokens.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, in the order of the roles."""
        return [str(token) for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens` that the vocabulary holds."""
        ids = (self.token_to_id(token) for token in self.all_special_tokens)
        return [token_id for token_id in ids if token_id is not None]

    # Adding ---------------------------------------------------------------------------------------

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary."""
        raise NotImplementedError

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
            InvalidInputError: for an unknown role, or a token that is none.
        """
        added: list[Token] = []
        for role in special_tokens_dict:
            check_choice("A special token's role", role, list(self._special_tokens_map))
        for role, value in special_tokens_dict.items():
            if role == ADDITIONAL:
                self._set_special_token(
                    ADDITIONAL, self._additional(value, keep=not replace_additional_special_tokens)
                )
                added += self._special_tokens_map[ADDITIONAL]
            else:
                self._set_special_token(role, _as_special(value))
                added.append(self._special_tokens_map[role])
        return self.add_tokens(added, special_tokens=True)

    def _additional(self, tokens: Any, *, keep: bool) -> list[Token]:
        """The list of additional tokens after `tokens` were set, or appended to those there."""
        if not isinstance(tokens, (list, tuple)):
            raise InvalidInputError(f"{ADDITIONAL} is {tokens!r}; it must be a list.")
        known = list(self._special_tokens_map[ADDITIONAL] or []) if keep else []
        new = [_as_special(token) for token in tokens]
        return known + [token for token in new if str(token) not in set(map(str, known))]


def _role(name: str) -> tuple[str, bool]:
    """Split an attribute's name into the role it speaks of and whether it means ids."""
    if name == f"{ADDITIONAL}_ids":
        return ADDITIONAL, True
    return (name[:-3], True) if name.endswith("_id") else (name, False)


def _is_token(value: Any) -> bool:
    return isinstance(value, (str, AddedToken))


def _as_special(token: Any) -> Any:
    """Turn a string into a special token: whole, never normalized."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    return token
