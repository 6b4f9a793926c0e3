"""What the tokenizers do to ids that exist already: special tokens, truncation, padding.

Source: transformers 4.57, `PreTrainedTokenizerBase`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.calling import CallMixin
from gpt2x.tokenization.encoding import EncodedSequence, Encoding
from gpt2x.tokenization.options import EncodeOptions, Padding, Truncation
from gpt2x.tokenization.rows import RowBuilder

# Which framework's tensors a value is, by the package of its type.
_TENSOR_KINDS = {"torch": "pt", "tensorflow": "tf", "jax": "jax", "jaxlib": "jax", "numpy": "np"}


class PrepareMixin(CallMixin):
    """Preparation of ids for the model."""

    # Special tokens -------------------------------------------------------------------------------

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens are added to a text, or to a pair."""
        return self._template().number_of_special_tokens(pair=pair)

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
        return self._whole_row(token_ids_0, token_ids_1).ids

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the token type of each id of `build_inputs_with_special_tokens`."""
        return self._whole_row(token_ids_0, token_ids_1).type_ids

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
            return self._whole_row(token_ids_0, token_ids_1).special_tokens_mask
        if token_ids_1 is not None:
            raise InvalidInputError(
                "With already_has_special_tokens=True give the finished row alone, as token_ids_0."
            )
        special = self._special_ids()
        return [int(token_id in special) for token_id in token_ids_0]

    def _special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        raise NotImplementedError

    def _whole_row(self, ids: list[int], pair_ids: list[int] | None) -> Encoding:
        builder = RowBuilder(self._template(), Truncation(), False, self._id_of)
        second = None if pair_ids is None else EncodedSequence(list(pair_ids))
        return builder.build(EncodedSequence(list(ids)), second)

    # Truncation -----------------------------------------------------------------------------------

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
        _, resolved = options.resolve(self)
        n_first, n_second = len(ids), None if pair_ids is None else len(pair_ids)
        truncation = Truncation(
            resolved.strategy, n_first + (n_second or 0) - num_tokens_to_remove, stride
        )
        keep_first, keep_second = truncation.lengths(n_first, n_second, special=0)
        first, removed_first = self._cut(ids, keep_first, stride)
        if pair_ids is None:
            return first, None, removed_first
        second, removed_second = self._cut(pair_ids, keep_second or 0, stride)
        both = truncation.strategy == "longest_first"
        return first, second, [] if both else removed_first + removed_second

    def _cut(self, ids: list[int], keep: int, stride: int) -> tuple[list[int], list[int]]:
        """Keep so many ids; return them, and those removed with `stride` kept ones beside them."""
        if keep == len(ids):
            return ids, []
        if self.truncation_side == "right":
            return ids[:keep], ids[max(keep - stride, 0) :]
        removed = len(ids) - keep
        return ids[removed:], ids[: removed + stride]

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
            "prepare_for_model", {"add_special_tokens": add_special_tokens, **options}, self
        )
        overflow = resolved.return_overflowing_tokens
        resolved.return_overflowing_tokens = False
        kind, resolved.return_tensors = resolved.return_tensors, None
        encoded = self._encode(list(ids), None if pair_ids is None else list(pair_ids), resolved)
        if overflow:
            encoded.update(self._overflow(ids, pair_ids, resolved))
        return encoded.convert_to_tensors(kind, prepend_batch_axis)

    def _overflow(
        self, ids: list[int], pair_ids: list[int] | None, options: EncodeOptions
    ) -> dict[str, Any]:
        _, truncation = options.resolve(self)
        if truncation.strategy == "longest_first" and pair_ids is not None:
            raise InvalidInputError(
                "Which tokens overflow is not defined for a pair with truncation='longest_first'; "
                "use 'only_first' or 'only_second'."
            )
        special = self.num_special_tokens_to_add(pair_ids is not None)
        total = len(ids) + len(pair_ids or []) + special * options.add_special_tokens
        excess = total - (truncation.max_length or total)
        removed = self.truncate_sequences(
            list(ids), pair_ids, excess, truncation.strategy, truncation.stride
        )[2]
        return {"overflowing_tokens": removed, "num_truncated_tokens": excess}

    # Padding --------------------------------------------------------------------------------------

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
        entries = _as_entries(encoded_inputs)
        main = self.model_input_names[0]
        if main not in entries:
            raise InvalidInputError(f"There is no {main!r} to pad among {sorted(entries)}.")
        if return_tensors is None:
            return_tensors = _tensor_kind(entries[main])
        entries = {name: to_list(value) for name, value in entries.items()}
        options = EncodeOptions(
            padding=padding,
            truncation=False,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            verbose=verbose and padding is not True,
        )
        resolved, _ = options.resolve(self)
        is_batch = not entries[main] or isinstance(entries[main][0], list)
        if not is_batch:
            entries = {name: [value] for name, value in entries.items()}
        for name, value in entries.items():
            if len(value) != len(entries[main]):
                raise InvalidInputError(
                    f"{main!r} has {len(entries[main])} rows, but {name!r} has {len(value)}."
                )
        if self._wanted("attention_mask", return_attention_mask):
            entries.setdefault("attention_mask", [[1] * len(row) for row in entries[main]])
        padded = self._pad_entries(entries, resolved)
        if not is_batch:
            padded = {name: value[0] for name, value in padded.items()}
        return BatchEncoding(padded, tensor_type=return_tensors)

    def _pad_entries(self, entries: dict[str, Any], padding: Padding) -> dict[str, Any]:
        main = self.model_input_names[0]
        lengths = [len(row) for row in entries[main]]
        target = padding.target(lengths)
        if target is None:
            return entries
        fillers = {
            main: self._id_of(self.pad_token or ""),
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }

        def padded(row: list[Any], filler: int, missing: int) -> list[Any]:
            filling = [filler] * missing
            return row + filling if padding.side == "right" else filling + row

        return {
            name: [
                padded(row, fillers[name], target - length)
                for row, length in zip(rows, lengths, strict=True)
            ]
            if name in fillers
            else rows
            for name, rows in entries.items()
        }


def _as_entries(encoded: Any) -> dict[str, Any]:
    """Turn a list of dictionaries into a dictionary of lists."""
    if isinstance(encoded, Mapping):
        return dict(encoded)
    if isinstance(encoded, Sequence) and encoded and isinstance(encoded[0], Mapping):
        return {name: [row[name] for row in encoded] for name in encoded[0]}
    raise InvalidInputError(
        "pad() takes what the tokenizer returned: a dictionary, or a list of dictionaries, not "
        f"{type(encoded).__name__}."
    )


def _tensor_kind(value: Any) -> str | None:
    """Name the framework of a tensor, or of the tensors in a list; None for plain lists."""
    while isinstance(value, (list, tuple)):
        if not value:
            return None
        value = value[0]
    return _TENSOR_KINDS.get(type(value).__module__.partition(".")[0])


def to_list(value: Any) -> Any:
    """Turn a tensor, or a list of them, into lists of Python numbers."""
    if isinstance(value, (list, tuple)):
        return [to_list(item) for item in value]
    if isinstance(value, (int, float, bool, str)) or value is None:
        return value
    return value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist()
