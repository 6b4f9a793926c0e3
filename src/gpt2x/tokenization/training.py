"""Training of a new vocabulary with GPT-2's rules."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer, models, trainers

from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.tokenization.added_tokens import AddedTokens
from gpt2x.tokenization.bpe import byte_to_unicode
from gpt2x.tokenization.pipeline import pinned_pre_tokenizer
from gpt2x.tokenization.special_tokens import (
    ADDITIONAL,
    NAMED_TOKENS,
    SpecialTokensMixin,
    Token,
)
from gpt2x.tokenization.vocabulary import Vocabulary, added_token, added_token_state, parse_merges

logger = logging.getLogger(__name__)

#: Options of `tokenizers.trainers.BpeTrainer` that leave a byte-level vocabulary complete.
TRAINER_OPTIONS = ("min_frequency", "max_token_length", "show_progress")


def train_vocabulary(
    texts: Iterable[str] | Iterable[Sequence[str]],
    vocab_size: int,
    *,
    special_tokens: Sequence[AddedToken] = (),
    add_prefix_space: bool = False,
    length: int | None = None,
    trainer_options: Mapping[str, Any],
) -> Vocabulary:
    """Train byte-level BPE on texts, split by GPT-2's pattern.

    Args:
        texts: texts, or batches of texts.
        vocab_size: tokens to make, special ones included; if it is less than these and the 256
            bytes, which are always made, a warning says so.
        special_tokens: these have the first ids.
        add_prefix_space: whether texts are taken as if after a space.
        length: how many items `texts` has, for the progress bar.
        trainer_options: any of TRAINER_OPTIONS.

    Raises:
        InvalidInputError: if an option is unknown.
    """
    least = len(byte_to_unicode()) + len(special_tokens)
    if vocab_size < least:
        logger.warning(
            f"vocab_size is {vocab_size}, but the 256 bytes and the {len(special_tokens)} special "
            f"tokens alone are {least}: that is how many tokens there will be."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pinned_pre_tokenizer(add_prefix_space=add_prefix_space)
    unknown = [name for name in trainer_options if name not in TRAINER_OPTIONS]
    if unknown:
        raise InvalidInputError(
            unknown_arguments("train_new_from_iterator", unknown, TRAINER_OPTIONS)
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=list(byte_to_unicode().values()),
        **{"show_progress": False, **trainer_options},
    )
    tokenizer.train_from_iterator(texts, trainer=trainer, length=length)
    model = json.loads(tokenizer.to_str())["model"]
    return Vocabulary(
        model["vocab"],
        parse_merges(model["merges"]),
        added_tokens={model["vocab"][token.content]: token for token in special_tokens},
        add_prefix_space=add_prefix_space,
    )


class TrainMixin(SpecialTokensMixin):
    """Training of a tokenizer like this one."""

    _added: AddedTokens
    add_prefix_space: bool
    add_bos_token: bool
    extra_special_tokens: dict[str, Token]
    init_kwargs: dict[str, Any]

    def other_arguments(self) -> dict[str, Any]:
        """The constructor arguments that are neither settings nor files."""
        raise NotImplementedError

    def _as_added_token(self, token: Token, special: bool) -> AddedToken:
        """Return a token with its options."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The constructor arguments beside the vocabulary and special tokens."""
        raise NotImplementedError

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, **settings: Any) -> Self:
        """Make a tokenizer of a vocabulary."""
        raise NotImplementedError

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer_options: Any,
    ) -> Self:
        """Train a tokenizer with the settings and special tokens of this one on other texts.

        Args:
            text_iterator: texts, or batches of texts.
            vocab_size: tokens of the new tokenizer, special ones included.
            length: how many items `text_iterator` has, for the progress bar.
            new_special_tokens: special tokens beside those of this tokenizer.
            special_tokens_map: new texts of this tokenizer's special tokens, by their old texts.
            **trainer_options: `min_frequency`, `max_token_length` and `show_progress`, as in
                `tokenizers.trainers.BpeTrainer`.

        Returns:
            The new tokenizer. Its special tokens have the first ids; tokens that were added to
            this one and are not special are gone.
        """
        new_names = special_tokens_map or {}

        def renamed(token: Token) -> AddedToken:
            state = added_token_state(self._as_added_token(token, special=True))
            return added_token({**state, "content": new_names.get(str(token), str(token))})

        roles: dict[str, Any] = {
            role: [renamed(token) for token in value] if isinstance(value, list) else renamed(value)
            for role, value in self.special_tokens_map_extended.items()
        }
        new = [self._as_added_token(token, special=True) for token in new_special_tokens or []]
        roles[ADDITIONAL] = [*roles.get(ADDITIONAL, []), *new]
        marked = [renamed(token) for token in self._added.by_id.values() if token.special]
        vocabulary = train_vocabulary(
            text_iterator,
            vocab_size,
            special_tokens=list({str(token): token for token in [*marked, *new]}.values()),
            add_prefix_space=self.add_prefix_space,
            length=length,
            trainer_options=trainer_options,
        )
        roles["extra_special_tokens"] = {r: roles.pop(r) for r in self.extra_special_tokens}
        new_tokenizer = self.from_vocabulary(
            vocabulary,
            **{**self.settings(), **dict.fromkeys(NAMED_TOKENS), **roles},
        )
        new_tokenizer.init_kwargs = {**self.other_arguments(), **new_tokenizer.init_kwargs}
        return new_tokenizer
