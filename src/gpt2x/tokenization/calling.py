"""The call API of the tokenizers: texts in, `BatchEncoding` out.

Source: transformers 4.57, `PreTrainedTokenizerBase`. Where its Python and its Rust tokenizers
differ, docs/tokenizers.md says what both of ours do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.encoding import EncodedSequence, Encoding
from gpt2x.tokenization.options import EncodeOptions
from gpt2x.tokenization.rows import RowBuilder, pad_rows
from gpt2x.tokenization.template import Template

logger = logging.getLogger(__name__)

_INPUT_FORMS = (
    "A text must be a string; a batch a list of strings; with is_split_into_words=True a text is a "
    "list of strings and a batch a list of such lists."
)


class CallMixin:
    """Encoding of texts, pairs and batches."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    model_input_names: list[str]
    add_prefix_space: bool
    split_special_tokens: bool
    pad_token: str | None
    pad_token_id: int | None
    pad_token_type_id: int
    is_fast: bool

    # What the tokenizers provide ------------------------------------------------------------------

    def _encode_texts(
        self, texts: Sequence[Sequence[str]], options: EncodeOptions
    ) -> list[EncodedSequence]:
        """Encode texts, each given as a list of words or as a list of itself alone."""
        raise NotImplementedError

    def _template(self) -> Template:
        """The special tokens around sequences."""
        raise NotImplementedError

    def _id_of(self, token: str) -> int:
        """The id of a special token; raises if it has none."""
        raise NotImplementedError

    def warn_once(self, topic: str, message: str) -> None:
        """Log a warning, the first time that this tokenizer meets the topic."""
        raise NotImplementedError

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of each token."""
        raise NotImplementedError

    # Calls ----------------------------------------------------------------------------------------

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
        options = EncodeOptions.from_arguments(
            type(self).__name__,
            {
                "add_special_tokens": add_special_tokens,
                "padding": padding,
                "truncation": truncation,
                "max_length": max_length,
                "stride": stride,
                "is_split_into_words": is_split_into_words,
                "pad_to_multiple_of": pad_to_multiple_of,
                "padding_side": padding_side,
                "return_tensors": return_tensors,
                "return_token_type_ids": return_token_type_ids,
                "return_attention_mask": return_attention_mask,
                "return_overflowing_tokens": return_overflowing_tokens,
                "return_special_tokens_mask": return_special_tokens_mask,
                "return_offsets_mapping": return_offsets_mapping,
                "return_length": return_length,
                "verbose": verbose,
                **kwargs,
            },
            self,
        )
        if text is None and text_target is None:
            raise InvalidInputError("Nothing to encode: give `text` or `text_target`.")
        if text is None:
            return self._call(text_target, text_pair_target, options)
        encoded = self._call(text, text_pair, options)
        if text_target is not None:
            encoded["labels"] = self._call(text_target, text_pair_target, options)["input_ids"]
        return encoded

    def _call(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        """Tell a text from a batch, and encode it."""
        words = options.is_split_into_words
        for argument in (text, text_pair):
            if argument is not None and not _is_text_or_batch(argument, words):
                raise InvalidInputError(f"Cannot encode {_excerpt(argument)}. {_INPUT_FORMS}")
        is_batch = _is_list(text) and (not words or any(map(_is_list, text)))
        if not is_batch:
            return self._encode(text, text_pair, options)
        if text_pair is None:
            return self._encode_batch([_as_pair(item, words) for item in text], options)
        if not _is_list(text_pair) or len(text) != len(text_pair):
            given = len(text_pair) if _is_list(text_pair) else "a single text"
            raise InvalidInputError(
                f"`text` has {len(text)} texts, so `text_pair` must have as many, not {given}."
            )
        return self._encode_batch(list(zip(text, text_pair, strict=True)), options)

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
        if not _is_list(batch_text_or_text_pairs):
            raise InvalidInputError(
                f"A batch must be a list, not {_excerpt(batch_text_or_text_pairs)}."
            )
        words = resolved.is_split_into_words
        pairs = [_as_pair(item, words) for item in batch_text_or_text_pairs]
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

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of each id."""
        raise NotImplementedError

    # From inputs to rows --------------------------------------------------------------------------

    def _encode(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        encoded = self._encode_batch([(text, text_pair)], options)
        if options.return_tensors is None and not options.return_overflowing_tokens:
            for name, value in encoded.items():
                encoded[name] = value if name == "length" else value[0]
        return encoded

    def _encode_batch(
        self, pairs: Sequence[tuple[Any, Any]], options: EncodeOptions
    ) -> BatchEncoding:
        padding, truncation = options.resolve(self)
        if options.return_offsets_mapping and not self.is_fast:
            raise NotImplementedError(
                "return_offsets_mapping=True needs GPT2TokenizerFast; GPT2Tokenizer does not "
                "know the offsets of a text."
            )
        flat: list[Any] = []
        for first, second in pairs:
            flat += [first] if second is None else [first, second]
        sequences = iter(self._sequences(flat, options))
        builder = RowBuilder(
            self._template() if options.add_special_tokens else Template(),
            truncation,
            options.return_overflowing_tokens,
            self._id_of,
        )
        rows, samples = [], []
        for sample, (_, second) in enumerate(pairs):
            row = builder.build(next(sequences), None if second is None else next(sequences))
            rows += [row, *row.overflowing]
            samples += [sample] * (1 + len(row.overflowing))
        if options.max_length is None and options.verbose:
            self._warn_if_too_long(max(map(len, rows), default=0))
        if padding.strategy != "do_not_pad":
            pad_rows(
                rows,
                padding,
                self._id_of(self.pad_token or ""),
                self.pad_token or "",
                self.pad_token_type_id,
            )
        data = self._entries(rows, options)
        if options.return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        return BatchEncoding(data, rows if self.is_fast else None, options.return_tensors)

    def _sequences(self, texts: list[Any], options: EncodeOptions) -> list[EncodedSequence]:
        """Encode texts in any of the forms of `encode_plus`, in order."""
        given: list[EncodedSequence | None] = []
        to_encode: list[Sequence[str]] = []
        for text in texts:
            if isinstance(text, str):
                to_encode.append([text])
                given.append(None)
            elif not _is_list(text):
                raise InvalidInputError(f"Cannot encode {_excerpt(text)}. {_INPUT_FORMS}")
            elif all(isinstance(item, str) for item in text):
                if options.is_split_into_words:
                    to_encode.append(text)
                    given.append(None)
                else:
                    given.append(EncodedSequence(self.convert_tokens_to_ids(list(text))))
            elif all(hasattr(item, "__index__") for item in text):
                given.append(EncodedSequence([int(item) for item in text]))
            else:
                raise InvalidInputError(f"Cannot encode {_excerpt(text)}. {_INPUT_FORMS}")
        for text in to_encode:
            for part in text:
                _check_encodable(part)
        encoded = iter(self._encode_texts(to_encode, options))
        return [next(encoded) if sequence is None else sequence for sequence in given]

    def _entries(self, rows: list[Encoding], options: EncodeOptions) -> dict[str, Any]:
        """The entries that were asked for, each a list with one item per row."""
        entries: dict[str, Any] = {"input_ids": [row.ids for row in rows]}
        if self._wanted("token_type_ids", options.return_token_type_ids):
            entries["token_type_ids"] = [row.type_ids for row in rows]
        if self._wanted("attention_mask", options.return_attention_mask):
            entries["attention_mask"] = [row.attention_mask for row in rows]
        if options.return_special_tokens_mask:
            entries["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
        if options.return_offsets_mapping:
            entries["offset_mapping"] = [row.offsets for row in rows]
        if options.return_length:
            entries["length"] = [len(row) for row in rows]
        return entries

    def _wanted(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _warn_if_too_long(self, length: int) -> None:
        if length > self.model_max_length:
            self.warn_once(
                "sequence-length-is-longer-than-the-specified-maximum",
                f"A text has {length} tokens, and the model takes {self.model_max_length} at most. "
                "Pass truncation=True to shorten such texts.",
            )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_text_or_batch(value: Any, words: bool) -> bool:
    """Say whether a value is made of strings, in lists no deeper than a batch of pairs is."""
    depth = 3 if words else 2

    def is_made_of_strings(part: Any, depth: int) -> bool:
        if isinstance(part, str):
            return True
        return depth > 0 and _is_list(part) and all(is_made_of_strings(x, depth - 1) for x in part)

    return is_made_of_strings(value, depth)


def _as_pair(item: Any, words: bool) -> tuple[Any, Any]:
    """Tell a text from a pair of texts in a batch: a pair is a tuple or list of two texts.

    As in transformers, a list of strings or lists is a pair, of words or ids a text.
    """
    if not _is_list(item) or not item:
        return item, None
    holds_texts = _is_list(item[0]) if words else isinstance(item[0], str) or _is_list(item[0])
    if not holds_texts:
        return item, None
    if len(item) != 2:
        hint = "" if words else " For a list of words pass is_split_into_words=True."
        raise InvalidInputError(
            f"A pair must have two texts, not {len(item)}: {_excerpt(item)}.{hint}"
        )
    return item[0], item[1]


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"The text holds half a surrogate pair, {text[error.start]!r} at character "
            f"{error.start}, which is not a character and cannot be encoded. Join or replace such "
            "halves: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error


def _excerpt(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
