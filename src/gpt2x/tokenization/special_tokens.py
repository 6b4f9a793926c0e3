"""Special tokens by role: the token that begins a text, the one that pads it, and so on."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError

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


class SpecialTokens:
    """The special tokens of a tokenizer by role. `TokenTable` has their ids.

    Attributes:
        by_role: a token, or for ADDITIONAL a list of them; None for a role without any.
    """

    def __init__(self) -> None:
        self.by_role: dict[str, Any] = {**dict.fromkeys(NAMED_TOKENS), ADDITIONAL: []}

    def __contains__(self, role: str) -> bool:
        return role in self.by_role

    def set(self, role: str, value: Any) -> None:
        """Give a role its token (ADDITIONAL a list of tokens), or None.

        Raises:
            InvalidInputError: if the value is of another type.
        """
        if role == ADDITIONAL and value is not None:
            if not isinstance(value, (list, tuple)) or not all(map(is_token, value)):
                raise InvalidInputError(
                    f"{role} is {value!r}; it must be a list of strings or AddedTokens."
                )
            value = list(value)
        elif value is not None and not is_token(value):
            raise InvalidInputError(f"{role} is {value!r}; it must be a string or an AddedToken.")
        self.by_role[role] = value

    def text(self, role: str) -> Any:
        """Return the text of a role's token, or the texts of its list; None without a token."""
        return _text(self.by_role[role])

    def texts(self) -> dict[str, Any]:
        """Return the roles that have a token, with its text."""
        return {role: _text(value) for role, value in self.by_role.items() if value}

    def tokens(self) -> dict[str, Token]:
        """Return every token once, by its text, in the order of the roles."""
        found: dict[str, Token] = {}
        for value in self.by_role.values():
            for token in value if isinstance(value, list) else [value]:
                if token is not None:
                    found.setdefault(str(token), token)
        return found

    def to_assign(self, role: str, value: Any, replace_additional: bool) -> Any:
        """Return the token or tokens of a role for a value of `add_special_tokens`.

        Args:
            role: one of the roles.
            value: a token, or a list of them for ADDITIONAL. Strings become whole tokens.
            replace_additional: whether a list of additional tokens replaces the one before.
        """
        if role != ADDITIONAL:
            return as_special(value)
        if not isinstance(value, (list, tuple)):
            raise InvalidInputError(f"{ADDITIONAL} is {value!r}; it must be a list.")
        kept = [] if replace_additional else list(self.by_role[ADDITIONAL] or [])
        known = set(map(str, kept))
        return kept + [as_special(token) for token in value if str(token) not in known]


def is_token(value: Any) -> bool:
    """Return whether a value is a token."""
    return isinstance(value, (str, AddedToken))


def as_special(token: Any) -> Any:
    """Make a special token of a string: matched as a whole, not normalized."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    return token


def _text(value: Any) -> Any:
    if value is None:
        return None
    return [str(token) for token in value] if isinstance(value, list) else str(value)
