"""The public API from ids to rows for the model: special tokens around texts, truncation, padding.

Source: transformers 4.57, `PreTrainedTokenizerBase`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.assembler import Assembler, as_entries, as_rows, tensor_kind
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.encoding import EncodedSequence, Encoding
from gpt2x.tokenization.inputs import form_of
from gpt2x.tokenization.options import EncodeOptions, Padding, Truncation
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.token_api import TokenAPI
from gpt2x.tokenization.vocabulary import Vocabulary

logger = logging.getLogger("gpt2x.tokenization.base")  # its public name


class RowAPI(TokenAPI):
    """What a tokenizer does to ids that exist already.

    Args:
        vocabulary: the tokens and merges.
        settings: a value for each of `gpt2x.tokenization.settings.SETTINGS`; they become
            attributes.
    """

    is_fast = False

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
        super().__init__(vocabulary)
        #: The topics that were warned of; set one to True, and it is not warned of.
        self.deprecation_warnings: dict[str, bool] = {}
        self._own_template = Template()
        for name, value in settings.items():
            setattr(self, name, value)

    def warn_once(self, topic: str, message: str) -> None:
        """Log a warning, the first time that this tokenizer meets the topic."""
        if not self.deprecation_warnings.get(topic):
            self.deprecation_warnings[topic] = True
            logger.warning(message)

    # Special tokens around texts ------------------------------------------------------------------

    @property
    def _template(self) -> Template:
        return self._own_template

    @_template.setter
    def _template(self, template: Template) -> None:
        self._own_template = template

    @property
    def _assembler(self) -> Assembler:
        return Assembler(self._table, self._template, self.pad_token_type_id)

    @property
    def add_bos_token(self) -> bool:
        """Whether each text begins with `bos_token`; once set here, both texts of a pair do."""
        return self.bos_token is not None and self._template.single[0] == self.bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        if value and self.bos_token is None:
            raise InvalidInputError("add_bos_token=True needs a bos_token, and none is set.")
        self._template = Template.with_bos(self.bos_token) if value else Template()

    def _set_role(self, role: str, value: Any) -> None:
        follows = role == "bos_token" and self.add_bos_token
        super()._set_role(role, value)
        if follows:
            self.add_bos_token = value is not None

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens are added to a text, or to a pair."""
        return self._template.number_of_special_tokens(pair=pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a text the model takes beside the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair of texts the model takes beside the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the ids of a text or pair with special tokens: with `add_bos_token`, bos first."""
        return self._assembler.row_of_ids(token_ids_0, token_ids_1).ids

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the token type of each id of `build_inputs_with_special_tokens`."""
        return self._assembler.row_of_ids(token_ids_0, token_ids_1).type_ids

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for special tokens, 0 for others.

        Args:
            token_ids_0: ids of a text.
            token_ids_1: ids of the second text of a pair.
            already_has_special_tokens: whether `token_ids_0` is the finished row. If not, the mask
                is that of `build_inputs_with_special_tokens`.
        """
        if not already_has_special_tokens:
            return self._assembler.row_of_ids(token_ids_0, token_ids_1).special_tokens_mask
        if token_ids_1 is not None:
            raise InvalidInputError(
                "With already_has_special_tokens=True give the finished row alone, as token_ids_0."
            )
        special = self._table.special_ids()
        return [int(token_id in special) for token_id in token_ids_0]

    # Rows -----------------------------------------------------------------------------------------

    def _batch(
        self,
        pairs: Sequence[tuple[EncodedSequence, EncodedSequence | None]],
        options: EncodeOptions,
        padding: Padding,
        truncation: Truncation,
    ) -> BatchEncoding:
        """Make rows of sequences and pairs, and return what was asked for."""
        assembler = self._assembler
        if not options.add_special_tokens:
            assembler = replace(assembler, template=Template())
        overflow = options.return_overflowing_tokens
        rows: list[Encoding] = []
        samples: list[int] = []
        for sample, (first, second) in enumerate(pairs):
            row = assembler.row(first, second, truncation, with_overflow=overflow)
            rows += [row, *row.overflowing]
            samples += [sample] * (1 + len(row.overflowing))
        longest = max(map(len, rows), default=0)
        if options.max_length is None and options.verbose and longest > self.model_max_length:
            self.warn_once(
                "sequence-length-is-longer-than-the-specified-maximum",
                f"A text has {longest} tokens, and the model takes {self.model_max_length} at "
                "most. Pass truncation=True to shorten such texts.",
            )
        assembler.pad(rows, padding)
        data = options.entries(rows, self.model_input_names)
        if overflow:
            data["overflow_to_sample_mapping"] = samples
        return BatchEncoding(data, rows if self.is_fast else None, options.return_tensors)

    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        prepend_batch_axis: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        """Add special tokens to ids, truncate and pad them: `encode_plus` for ids.

        Takes the options of `__call__`. With `return_overflowing_tokens` the result holds
        `overflowing_tokens`, the ids that truncation removed, and `num_truncated_tokens`.
        """
        resolved = EncodeOptions.from_arguments(
            "prepare_for_model",
            {"add_special_tokens": add_special_tokens, **options},
            self,
        )
        with_overflow, resolved.return_overflowing_tokens = (
            resolved.return_overflowing_tokens,
            False,
        )
        kind, resolved.return_tensors = resolved.return_tensors, None
        padding, truncation = resolved.resolve(self)
        second = None if pair_ids is None else self._given_sequence(list(pair_ids))
        pair = self._given_sequence(list(ids)), second
        encoded = without_batch(self._batch([pair], resolved, padding, truncation))
        if with_overflow:
            encoded.update(self._overflow(ids, pair_ids, truncation, add_special_tokens))
        return encoded.convert_to_tensors(kind, prepend_batch_axis)

    def _given_sequence(self, ids_or_tokens: Any) -> EncodedSequence:
        """Take over a list of ids or of tokens."""
        if form_of(ids_or_tokens, words=False) == "ids":
            return EncodedSequence([int(token_id) for token_id in ids_or_tokens])
        return EncodedSequence(self.convert_tokens_to_ids(list(ids_or_tokens)))

    def _overflow(
        self,
        ids: list[int],
        pair_ids: list[int] | None,
        truncation: Truncation,
        add_special_tokens: bool,
    ) -> dict[str, Any]:
        if truncation.strategy == "longest_first" and pair_ids is not None:
            raise InvalidInputError(
                "Which tokens overflow is not defined for a pair with truncation='longest_first'; "
                "use 'only_first' or 'only_second'."
            )
        special = self.num_special_tokens_to_add(pair_ids is not None)
        total = len(ids) + len(pair_ids or []) + special * add_special_tokens
        excess = total - (truncation.max_length or total)
        removed = self.truncate_sequences(
            list(ids), pair_ids, excess, truncation.strategy, truncation.stride
        )[2]
        return {"overflowing_tokens": removed, "num_truncated_tokens": excess}

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Remove tokens from a text or pair.

        Args:
            ids: ids of the text.
            pair_ids: ids of the second text of a pair.
            num_tokens_to_remove: how many tokens to remove.
            truncation_strategy: "longest_first", "only_first", "only_second" or "do_not_truncate".
            stride: tokens that are kept and returned among the removed ones as well.

        Returns:
            The two lists of ids, and the removed ones (none if both lists were shortened).
        """
        if num_tokens_to_remove <= 0:
            return ids, pair_ids, []
        options = EncodeOptions(truncation=truncation_strategy, max_length=1, stride=stride)
        total = len(ids) + len(pair_ids or [])
        truncation = replace(options.resolve(self)[1], max_length=total - num_tokens_to_remove)
        return truncation.cut_pair(ids, pair_ids)

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad what the tokenizer returned to one length.

        Args:
            encoded_inputs: a dictionary of lists or tensors for one text or a batch, or a list of
                dictionaries, one per text (so `pad` is a collate function).
            padding, max_length, pad_to_multiple_of, padding_side: as in `__call__`.
            return_attention_mask: whether to return `attention_mask`; by default yes.
            return_tensors: "np", "pt", "tf" or "jax"; None returns what was given.
            verbose: whether to log warnings.

        Returns:
            The entries. `input_ids`, `attention_mask`, `token_type_ids` and `special_tokens_mask`
            are padded, others left as they are.
        """
        if self.is_fast and verbose:
            self.warn_once(
                "Asking-to-pad-a-fast-tokenizer",
                f"{type(self).__name__} pads faster in the call that encodes the texts, "
                "tokenizer(texts, padding=True), than in pad() afterwards.",
            )
        main = self.model_input_names[0]
        entries = as_entries(encoded_inputs, main)
        if return_tensors is None:
            return_tensors = tensor_kind(entries[main])
        options = EncodeOptions(
            padding=padding,
            truncation=False,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            verbose=verbose and padding is not True,
        )
        resolved, _ = options.resolve(self)
        entries, is_batch = as_rows(entries, main)
        if options.wants_attention_mask(self.model_input_names):
            entries.setdefault("attention_mask", [[1] * len(row) for row in entries[main]])
        padded = self._assembler.pad_entries(entries, main, resolved)
        if not is_batch:
            padded = {name: value[0] for name, value in padded.items()}
        return BatchEncoding(padded, tensor_type=return_tensors)


def without_batch(encoded: BatchEncoding) -> BatchEncoding:
    """Turn each entry of a batch of one into that of its row, in place."""
    for name, value in encoded.items():
        encoded[name] = value if name == "length" else value[0]
    return encoded
