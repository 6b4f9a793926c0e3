"""All tokens of a tokenizer, by text and by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tokenization.added_tokens import AddedTokens
from gpt2x.tokenization.bpe import token_to_bytes
from gpt2x.tokenization.special_tokens import ADDITIONAL, SpecialTokens, Token
from gpt2x.tokenization.vocabulary import Vocabulary, added_token, added_token_state


class TokenTable:
    """The tokens of a vocabulary, those that were added to it, and those that have a role.

    Attributes:
        vocabulary: the tokens that were trained; it does not change.
        added: the tokens that are found in text whole, special ones included.
        special: the tokens that have a role.
        bytes_of: the bytes that each id stands for; none for an id without a token.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.added = AddedTokens()
        self.special = SpecialTokens()
        self.bytes_of = _TokenBytes(self)
        self._next_id = max(vocabulary.tokens.values(), default=-1) + 1
        self._vocabulary_by_id: dict[int, str] | None = None

    # From texts to ids and back -------------------------------------------------------------------

    def __len__(self) -> int:
        tokens = self.vocabulary.tokens
        return len(tokens) + sum(content not in tokens for content in self.added.ids)

    def ids(self) -> dict[str, int]:
        """Return the id of every token."""
        return {**self.vocabulary.tokens, **self.added.ids}

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None if there is no such token."""
        token_id = self.added.get(token)
        return self.vocabulary.tokens.get(token) if token_id is None else token_id

    def required_id(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            InvalidInputError: if it has none.
        """
        token_id = self.id_of(token)
        if token_id is None:
            raise InvalidInputError(
                f"The special token {token!r} is not in the vocabulary. Add it with "
                f"tokenizer.add_tokens([{token!r}], special_tokens=True)."
            )
        return token_id

    def role_ids(self, role: str) -> Any:
        """Return the id of a role's token, or the ids of its list; None without a token.

        Raises:
            InvalidInputError: for a token that has no id.
        """
        tokens = self.special.text(role)
        for token in tokens if isinstance(tokens, list) else [tokens]:
            if token is not None and self.id_of(token) is None:
                entry = [token] if role == ADDITIONAL else token
                raise InvalidInputError(
                    f"{role} is {token!r}, which has no id yet. Give it one with "
                    f"tokenizer.add_special_tokens({{{role!r}: {entry!r}}})."
                )
        if isinstance(tokens, list):
            return [self.id_of(token) for token in tokens]
        return None if tokens is None else self.id_of(tokens)

    def unknown_id(self) -> int | None:
        """Return the id of the token that stands for what the vocabulary lacks; None without."""
        unk_token = self.special.text("unk_token")
        return None if unk_token is None else self.id_of(unk_token)

    def special_ids(self) -> frozenset[int]:
        """Return the ids of all tokens that have a role or are marked special."""
        with_role = map(self.id_of, self.special.tokens())
        marked = (token_id for token_id, token in self.added.by_id.items() if token.special)
        return frozenset([*(i for i in with_role if i is not None), *marked])

    def text_of(self, token_id: int) -> str | None:
        """Return the token of an id; None if there is none."""
        token = self.added.token(token_id)
        return self.vocabulary_by_id().get(token_id) if token is None else token.content

    def vocabulary_by_id(self) -> dict[int, str]:
        """Return the token of each id, without added ones; the same dictionary on every call."""
        if self._vocabulary_by_id is None:
            tokens = self.vocabulary.tokens
            self._vocabulary_by_id = {token_id: token for token, token_id in tokens.items()}
        return self._vocabulary_by_id

    # Adding ---------------------------------------------------------------------------------------

    def register(self, token_id: int, token: AddedToken) -> None:
        """Take over an added token of a file, under its id.

        Raises:
            CheckpointError: if the vocabulary contradicts.
        """
        in_vocabulary = self.vocabulary.tokens.get(token.content, token_id)
        holder = self.vocabulary_by_id().get(token_id, token.content)
        if in_vocabulary != token_id or holder != token.content:
            raise CheckpointError(
                f"The added token {token.content!r} has the id {token_id}, but the vocabulary "
                f"gives it the id {in_vocabulary}, and that id to {holder!r}."
            )
        self.added.put(token_id, token)
        self._next_id = max(self._next_id, token_id + 1)

    def add(self, token: AddedToken) -> None:
        """Add a token; one that has an id keeps it."""
        token_id = self.id_of(token.content)
        if token_id is None:
            token_id = self._next_id
            self._next_id += 1
        self.added.put(token_id, token)
        self.bytes_of.pop(token_id, None)
        if token.special and token.content not in self.special.tokens():
            additional = self.special.by_role[ADDITIONAL] or []
            self.special.by_role[ADDITIONAL] = [*additional, token]

    def as_added_token(self, token: Token, *, special: bool) -> AddedToken:
        """Return a token with its options; one that has a role is special."""
        special = special or str(token) in self.special.tokens()
        if isinstance(token, str):
            return AddedToken(token, special=special, normalized=not special)
        return added_token(added_token_state(token), special=special or token.special)

    def assign_roles(self, given: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Give the roles their tokens, and add those that the vocabulary lacks.

        Args:
            given: tokens by role.
            extra: tokens of further roles, by role.
        """
        roles = self.special.by_role
        roles.update(dict.fromkeys(extra))
        for role in roles:
            value = extra.get(role, given.get(role))
            if value is not None:
                self.special.set(role, value)
        for role, value in roles.items():  # only now: all roles are known, so none is additional
            if isinstance(value, list):
                value[:] = [self._adopt(token) for token in value]
            elif value is not None:
                roles[role] = self._adopt(value)

    def _adopt(self, token: Token) -> AddedToken:
        """Add a role's token as a special one; options that are not given are as they were."""
        if isinstance(token, str):
            known = self.added.token(self.added.ids.get(token, -1))
            token = AddedToken(token, normalized=True) if known is None else known
        token = added_token(added_token_state(token), special=True)
        self.add(token)
        return token


class _TokenBytes(dict[int, bytes]):
    """The bytes of each token by id. Fills itself, so that decoding runs no Python per token."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, token_id: int) -> bytes:
        added = self._table.added.token(token_id)
        if added is not None:
            content = added.content.encode("utf-8")
        else:
            content = token_to_bytes(self._table.vocabulary_by_id().get(token_id, ""))
        self[token_id] = content
        return content
