"""`GPT2Tokenizer`: GPT-2's tokenizer in pure Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpt2x.tokenization.base import GPT2TokenizerBase
from gpt2x.tokenization.bpe import byte_to_unicode, merge_pairs, unicode_to_byte
from gpt2x.tokenization.engine import RegexEngine
from gpt2x.tokenization.settings import END_OF_TEXT
from gpt2x.tokenization.special_tokens import Token
from gpt2x.tokenization.vocabulary import PathLike, Vocabulary


class GPT2Tokenizer(GPT2TokenizerBase):
    """GPT-2's byte-level BPE tokenizer, in pure Python.

    Gives the ids of GPT2TokenizerFast for every string. Replaces transformers' class of the same
    name, of versions 4 (`vocab_file`, `merges_file`) and 5 (`vocab`, `merges`).

    Args:
        vocab_file: path of a vocab.json, or the id of each token.
        merges_file: path of a merges.txt, or the merges as "a b" strings or pairs.
        errors: treatment of bytes that are not UTF-8, as in `bytes.decode`.
        unk_token: replaces bytes that the vocabulary lacks; unused if it has all 256.
        bos_token, eos_token: the tokens at the beginning and end of a text.
        pad_token: the token that fills rows; GPT-2 has none.
        add_prefix_space: whether texts are encoded as if after a space.
        add_bos_token: whether each text begins with a `bos_token`.
        vocab, merges: other names of `vocab_file` and `merges_file`.
        tokenizer_file: path of a tokenizer.json, in their place.
        **settings: `sep_token`, `cls_token`, `mask_token`, `additional_special_tokens`,
            `model_max_length`, `padding_side`, `truncation_side`, `model_input_names`,
            `clean_up_tokenization_spaces`, `split_special_tokens`, `pad_token_type_id` ...

    Special tokens that the vocabulary lacks are added to it.

    Raises:
        CheckpointError: for files that cannot be read or do not fit together.
        InvalidInputError: for an unknown argument or a value that is not allowed.
    """

    _engine_class = RegexEngine

    _engine: RegexEngine

    def __init__(
        self,
        vocab_file: PathLike | Mapping[str, int] | None = None,
        merges_file: PathLike | Iterable[Any] | None = None,
        errors: str = "replace",
        unk_token: Token | None = END_OF_TEXT,
        bos_token: Token | None = END_OF_TEXT,
        eos_token: Token | None = END_OF_TEXT,
        pad_token: Token | None = None,
        add_prefix_space: bool | None = None,
        add_bos_token: bool | None = None,
        *,
        vocab: PathLike | Mapping[str, int] | None = None,
        merges: PathLike | Iterable[Any] | None = None,
        tokenizer_file: PathLike | None = None,
        **settings: Any,
    ) -> None:
        vocabulary = Vocabulary.from_arguments(
            type(self).__name__,
            vocab_file if vocab is None else vocab,
            merges_file if merges is None else merges,
            tokenizer_file,
        )
        super().__init__(
            vocabulary,
            {
                "errors": errors,
                "unk_token": unk_token,
                "bos_token": bos_token,
                "eos_token": eos_token,
                "pad_token": pad_token,
                "add_prefix_space": add_prefix_space,
                "add_bos_token": add_bos_token,
                **settings,
            },
        )
        #: The results of `bpe`, by token.
        self.cache: dict[str, str] = {}

    # As in OpenAI's encoder.py --------------------------------------------------------------------

    @property
    def encoder(self) -> dict[str, int]:
        """The id of each token that was not added."""
        return self._table.vocabulary.tokens

    @property
    def decoder(self) -> dict[int, str]:
        """The token of each id that was not added."""
        return self._table.vocabulary_by_id()

    @property
    def byte_encoder(self) -> dict[int, str]:
        """The character for each byte."""
        return byte_to_unicode()

    @property
    def byte_decoder(self) -> dict[str, int]:
        """The byte for each character."""
        return unicode_to_byte()

    def bpe(self, token: str) -> str:
        """Merge a word whose bytes are spelt as characters; return its tokens, space between.

        >>> tokenizer.bpe("Ġlower")
        'Ġlower'
        """
        if token not in self.cache:
            self.cache[token] = " ".join(merge_pairs(token, self._engine.words.ranks))
        return self.cache[token]
