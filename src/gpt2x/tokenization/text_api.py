"""The public API from texts to ids and back.

Source: transformers 4.57, `PreTrainedTokenizerBase`. Where its Python and its Rust tokenizers
differ, docs/tokenizers.md says what both of ours do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.assembler import to_list
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.encoding import EncodedSequence
from gpt2x.tokenization.engine import CLEANED_UP, Engine
from gpt2x.tokenization.inputs import Pair, as_batch, as_pairs, check_encodable, form_of
from gpt2x.tokenization.options import OPTIONS, EncodeOptions, either
from gpt2x.tokenization.row_api import RowAPI, without_batch
from gpt2x.tokenization.vocabulary import Vocabulary


class TextAPI(RowAPI):
    """Encoding of texts, pairs and batches, and decoding.

    Args:
        vocabulary: the tokens and merges.
        settings: see `RowAPI`.
    """

    _engine_class: type[Engine]

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
        super().__init__(vocabulary, settings)
        self._engine = self._engine_class(self._table)

    # From texts to ids ----------------------------------------------------------------------------

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Encode a text, a pair of texts, or a batch of either.

        Args:
            text: a string, or a list of strings for a batch (of lists of two strings for a batch
                of pairs). With `is_split_into_words`, a list of words, or a list of such lists.
            text_pair: the second texts of pairs, of the same form.
            text_target, text_pair_target: texts whose ids are returned as `labels`; alone, in the
                place of `text`.
            add_special_tokens: whether to add what `add_bos_token` asks for.
            padding: False; True or "longest" to pad to the longest row; "max_length" to pad to
                `max_length`, or to the tokenizer's `model_max_length`.
            truncation: False; True or "longest_first" to shorten the longer text of a pair first;
                "only_first" or "only_second". None is False unless `max_length` is given.
            max_length: longest row, in tokens; by default the tokenizer's `model_max_length`.
            stride: tokens that a row shares with the overflowing row after it.
            is_split_into_words: whether texts are lists of words. A word is encoded as if a space
                stood before it.
            pad_to_multiple_of: round padded lengths up to a multiple of it.
            padding_side: "right" or "left"; by default the tokenizer's.
            return_tensors: "np", "pt", "tf" or "jax" for tensors [rows, tokens]; None for lists.
            return_token_type_ids: whether to return `token_type_ids`: 0 for the first text, 1 for
                the second.
            return_attention_mask: whether to return `attention_mask`: 1 for tokens, 0 for padding.
            return_overflowing_tokens: whether to return what truncation removed, as further rows,
                and `overflow_to_sample_mapping`, the text's number for each row.
            return_special_tokens_mask: whether to return `special_tokens_mask`: 1 for padding and
                for special tokens that were added around a text.
            return_offsets_mapping: whether to return `offset_mapping`, for each token the first
                character and the one after the last (GPT2TokenizerFast only).
            return_length: whether to return `length`, of each row in tokens.
            verbose: whether to log warnings.
            **kwargs: `split_special_tokens` and `add_prefix_space`, for this call. A warning names
                others.

        Returns:
            `input_ids`, `attention_mask` and what else was asked for: for a text, lists of one
            value per token; for a batch, or with overflow, lists of those.

        Raises:
            InvalidInputError: for anything else than the above.
        """
        given = {name: value for name, value in locals().items() if name in OPTIONS}
        options = EncodeOptions.from_arguments(type(self).__name__, given | kwargs, self)
        if text is None and text_target is None:
            raise InvalidInputError("Nothing to encode: give `text` or `text_target`.")
        if text is None:
            return self._call(text_target, text_pair_target, options)
        encoded = self._call(text, text_pair, options)
        if text_target is not None:
            encoded["labels"] = self._call(text_target, text_pair_target, options)["input_ids"]
        return encoded

    def _call(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        pairs, is_batch = as_pairs(text, text_pair, options.is_split_into_words)
        return self._encode_batch(pairs, options) if is_batch else self._encode(*pairs[0], options)

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Return the ids of a text or pair: the `input_ids` of `encode_plus`."""
        return self.encode_plus(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            **kwargs,
        )["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Encode a text or pair, given as strings, lists of tokens, or lists of ids.

        Takes the options of `__call__`.
        """
        resolved = EncodeOptions.from_arguments("encode_plus", options, self)
        return self._encode(text, text_pair, resolved)

    def batch_encode_plus(
        self, batch_text_or_text_pairs: Sequence[Any], **options: Any
    ) -> BatchEncoding:
        """Encode a list of texts, or of (text, text) tuples, in the forms of `encode_plus`.

        Takes the options of `__call__`.
        """
        resolved = EncodeOptions.from_arguments("batch_encode_plus", options, self)
        pairs = as_batch(batch_text_or_text_pairs, resolved.is_split_into_words)
        return self._encode_batch(pairs, resolved)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Return the tokens of a text or pair, as the vocabulary spells them.

        Takes the options of `__call__` that change ids.

        >>> tokenizer.tokenize("Hello world")
        ['Hello', 'Ġworld']
        """
        encoded = self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options)
        return self.convert_ids_to_tokens(encoded["input_ids"])

    def _encode(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        encoded = self._encode_batch([(text, text_pair)], options)
        if options.return_tensors is None and not options.return_overflowing_tokens:
            without_batch(encoded)
        return encoded

    def _encode_batch(self, pairs: Sequence[Pair], options: EncodeOptions) -> BatchEncoding:
        padding, truncation = options.resolve(self)
        flat: list[Any] = []
        for first, second in pairs:
            flat += [first] if second is None else [first, second]
        sequences = iter(self._sequences(flat, options))
        encoded = [
            (next(sequences), None if second is None else next(sequences)) for _, second in pairs
        ]
        return self._batch(encoded, options, padding, truncation)

    def _sequences(self, texts: list[Any], options: EncodeOptions) -> list[EncodedSequence]:
        """Encode texts in any of the forms of `encode_plus`, in order."""
        words = options.is_split_into_words
        given: list[EncodedSequence | None] = []
        to_encode: list[Sequence[str]] = []
        for text in texts:
            form = form_of(text, words)
            if form in ("ids", "tokens"):
                given.append(self._given_sequence(text))
                continue
            given.append(None)
            to_encode.append([text] if form == "text" else text)
        for parts in to_encode:
            for part in parts:
                check_encodable(part)
        encoded = iter(
            self._engine.encode(
                to_encode,
                are_words=words,
                prefix_space=words or either(options.add_prefix_space, self.add_prefix_space),
                ignore_special=either(options.split_special_tokens, self.split_special_tokens),
            )
        )
        return [next(encoded) if sequence is None else sequence for sequence in given]

    # From ids to texts ----------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> str:
        """Return the text of ids: that which was encoded, exactly.

        Args:
            token_ids: an id, a list of ids, or an array or tensor of shape [] or [tokens].
            skip_special_tokens: whether to leave special tokens out.
            clean_up_tokenization_spaces: whether to remove spaces before punctuation and English
                contractions, which may change the text; None for the tokenizer's setting.
            spaces_between_special_tokens: whether to put a space between added tokens and the
                text around them.

        Returns:
            The text. Bytes that are not UTF-8 are treated as `errors` says; ids that no token has
            (a model may have more embeddings than there are tokens) have no text.

        Raises:
            InvalidInputError: for anything but ids: negative numbers, floats, nested lists.
        """
        ids = to_list(token_ids)
        ids = ids if isinstance(ids, list) else [ids]
        for token_id in ids:
            if not isinstance(token_id, (int, np.integer)) or token_id < 0:
                hint = " Use batch_decode for several rows." if isinstance(token_id, list) else ""
                raise InvalidInputError(f"Cannot decode {token_id!r}: it is not a token id.{hint}")
        if skip_special_tokens:
            skipped = self._table.special_ids()
            ids = [token_id for token_id in ids if token_id not in skipped]
        separator = " " if spaces_between_special_tokens else None
        text = self._engine.decode(ids, self.errors, separator=separator)
        cleans = either(clean_up_tokenization_spaces, self.clean_up_tokenization_spaces)
        return self.clean_up_tokenization(text) if cleans else text

    def batch_decode(self, sequences: Iterable[Any], **options: Any) -> list[str]:
        """Return the text of each row of ids, with the options of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens."""
        return self._engine.decode_tokens(tokens, self.errors)

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces before punctuation and English contractions."""
        for spaced, joined in CLEANED_UP.items():
            out_string = out_string.replace(spaced, joined)
        return out_string
