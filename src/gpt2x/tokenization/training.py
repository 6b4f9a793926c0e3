"""Training of a new vocabulary with GPT-2's rules."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, trainers

from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.tokenization.bpe import byte_to_unicode
from gpt2x.tokenization.library_engine import pinned_pre_tokenizer
from gpt2x.tokenization.vocabulary import Vocabulary, parse_merges

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
        vocab_size: tokens to make, including special ones. Special tokens and the 256 bytes are
            always made; if that is more, there is a warning.
        special_tokens: these have the first ids.
        add_prefix_space: whether texts are split as if after a space.
        length: number of items in `texts`, for the progress bar.
        trainer_options: any of TRAINER_OPTIONS.

    Raises:
        InvalidInputError: if an option is unknown.
    """
    least = len(byte_to_unicode()) + len(special_tokens)
    if vocab_size < least:
        logger.warning(
            f"vocab_size is {vocab_size}, but the 256 bytes and the {len(special_tokens)} special "
            f"tokens alone are {least}: the vocabulary will have that many."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pinned_pre_tokenizer(add_prefix_space)
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
