"""The options of a tokenizer call: padding, truncation, and the entries to return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from gpt2x.errors import InvalidInputError, check_choice, check_count, unknown_arguments
from gpt2x.tokenization.encoding import Encoding

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")

#: `model_max_length` of a tokenizer without one.
NO_MAX_LENGTH = int(1e30)


if TYPE_CHECKING:
    from gpt2x.tokenization.row_api import RowAPI


@dataclass(frozen=True)
class Padding:
    """How rows are padded.

    Attributes:
        strategy: one of PADDING.
        length: the length to pad to, for "max_length".
        multiple: lengths are rounded up to a multiple of it.
        side: where padding goes, "right" or "left".
    """

    strategy: str = "do_not_pad"
    length: int | None = None
    multiple: int | None = None
    side: str = "right"

    def target(self, lengths: list[int]) -> int | None:
        """Return the length to which rows of these lengths are padded; None for no padding."""
        if self.strategy == "do_not_pad":
            return None
        longest = max(lengths, default=0)
        target = longest if self.length is None else self.length
        return -(-target // self.multiple) * self.multiple if self.multiple else target


@dataclass(frozen=True)
class Truncation:
    """How sequences are truncated.

    Attributes:
        strategy: one of TRUNCATION.
        max_length: longest row, special tokens included.
        stride: tokens that a row shares with the overflowing row that follows.
        side: where tokens are removed, "right" or "left".
    """

    strategy: str = "do_not_truncate"
    max_length: int | None = None
    stride: int = 0
    side: str = "right"

    def lengths(self, first: int, second: int | None, special: int) -> tuple[int, int | None]:
        """Return the number of tokens that a row keeps of each sequence.

        Args:
            first: tokens of the first sequence.
            second: tokens of the second sequence; None if there is none.
            special: special tokens that are added to them.

        Raises:
            InvalidInputError: if the row cannot be shortened to `max_length` in this way.
        """
        if self.strategy == "do_not_truncate" or self.max_length is None:
            return first, second
        room = self.max_length - special
        if self.stride and self.stride >= room:
            raise InvalidInputError(
                f"stride is {self.stride}; it must be less than the {max(room, 0)} tokens that "
                f"max_length={self.max_length} leaves beside {special} special tokens."
            )
        if first + (second or 0) <= room:
            return first, second
        if room < 0:
            raise InvalidInputError(
                f"max_length is {self.max_length}, less than the {special} special tokens alone."
            )
        if self.strategy == "only_second":
            if second is None:
                raise InvalidInputError(
                    "truncation='only_second' needs a pair; a single sequence can be truncated "
                    "with 'only_first' or 'longest_first'."
                )
            return first, self._shortened("second", second, room - first)
        if second is None:
            return room, None
        if self.strategy == "only_first":
            return self._shortened("first", first, room - second), second
        return _share(first, second, room)

    def _cut(self, ids: list[int], keep: int) -> tuple[list[int], list[int]]:
        """Keep so many ids; return them, and those removed with `stride` kept ones beside them."""
        if keep == len(ids):
            return ids, []
        if self.side == "right":
            return ids[:keep], ids[max(keep - self.stride, 0) :]
        removed = len(ids) - keep
        return ids[removed:], ids[: removed + self.stride]

    def cut_pair(
        self, ids: list[int], pair_ids: list[int] | None
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Shorten ids to `max_length`; return both lists, and the removed ones.

        Of a pair that was shortened longest first, no removed ones are returned.
        """
        n_second = None if pair_ids is None else len(pair_ids)
        keep_first, keep_second = self.lengths(len(ids), n_second, special=0)
        first, removed_first = self._cut(ids, keep_first)
        if pair_ids is None:
            return first, None, removed_first
        second, removed_second = self._cut(pair_ids, keep_second or 0)
        both = self.strategy == "longest_first"
        return first, second, [] if both else removed_first + removed_second

    def _shortened(self, which: str, length: int, room: int) -> int:
        if room < 1:
            raise InvalidInputError(
                f"truncation='only_{which}' cannot bring this pair to max_length="
                f"{self.max_length}: the {which} sequence has {length} tokens, and {length - room} "
                "would have to go. Use 'longest_first', or a larger max_length."
            )
        return room


def _share(first: int, second: int, room: int) -> tuple[int, int]:
    """Shorten the longer of two sequences; when they are equal, both; the second keeps more."""
    short, long = sorted((first, second))
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


@dataclass(kw_only=True)
class EncodeOptions:
    """The options of a tokenizer call, as transformers' `PreTrainedTokenizerBase.__call__`."""

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    split_special_tokens: bool | None = None
    add_prefix_space: bool | None = None
    verbose: bool = True

    @classmethod
    def from_arguments(
        cls, where: str, arguments: Mapping[str, Any], tokenizer: RowAPI
    ) -> EncodeOptions:
        """Take options by name. `tokenizer` warns of unknown names, as in transformers."""
        unknown = sorted(name for name in arguments if name not in OPTIONS)
        if unknown and arguments.get("verbose", True):
            message = unknown_arguments(where, unknown, OPTIONS)
            tokenizer.warn_once(f"unknown {unknown}", f"{message} It has no effect.")
        return cls(**{name: value for name, value in arguments.items() if name in OPTIONS})

    def resolve(self, tokenizer: RowAPI) -> tuple[Padding, Truncation]:
        """Return how to pad and truncate; `tokenizer` has the defaults of options.

        Raises:
            InvalidInputError: for a value that is not allowed, for padding without a padding token,
                or if padding would exceed the truncation length.
            NotImplementedError: for offsets of a tokenizer that does not know them.
        """
        if self.return_offsets_mapping and not tokenizer.is_fast:
            raise NotImplementedError(
                "return_offsets_mapping=True needs GPT2TokenizerFast; GPT2Tokenizer does not "
                "know the offsets of a text."
            )
        padding = strategy("padding", self.padding, PADDING, "longest", "do_not_pad")
        truncation = strategy(
            "truncation", self.truncation, TRUNCATION, "longest_first", "do_not_truncate"
        )
        side = self.padding_side or tokenizer.padding_side
        check_choice("padding_side", side, SIDES)
        check_choice("truncation_side", tokenizer.truncation_side, SIDES)
        check_count("max_length", self.max_length)
        check_count("stride", self.stride)
        check_count("pad_to_multiple_of", self.pad_to_multiple_of, least=1)

        length = self.max_length
        if length is not None and padding == "do_not_pad" and self.truncation is None:
            truncation = "longest_first"
            self._warn(
                tokenizer,
                "Truncation-not-explicitly-activated",
                "max_length is given without truncation; texts are truncated to it. Pass "
                "truncation=True to say so, or truncation=False to keep them whole.",
            )
        if length is None and tokenizer.model_max_length < NO_MAX_LENGTH:
            length = tokenizer.model_max_length
        if length is None:
            if padding == "max_length":
                self._warn_of_no_length(tokenizer, "pad", "padding", padding)
            if truncation != "do_not_truncate":
                self._warn_of_no_length(tokenizer, "truncate", "truncation", truncation)
            padding = "do_not_pad" if padding == "max_length" else padding
            truncation = "do_not_truncate"
        if padding != "do_not_pad" and tokenizer.pad_token is None:
            raise InvalidInputError(
                "Padding needs a padding token, and this tokenizer does not have one. Set it with: "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        multiple = self.pad_to_multiple_of
        does_both = padding != "do_not_pad" and truncation != "do_not_truncate"
        if multiple and length and length % multiple and does_both:
            raise InvalidInputError(
                f"Texts would be truncated to {length} tokens, which is not a multiple of "
                f"pad_to_multiple_of={multiple}. Choose a max_length that is."
            )
        return (
            Padding(padding, length if padding == "max_length" else None, multiple, side),
            Truncation(truncation, length, self.stride, tokenizer.truncation_side),
        )

    def _warn_of_no_length(self, tokenizer: RowAPI, verb: str, option: str, value: str) -> None:
        self._warn(
            tokenizer,
            f"Asking-to-{verb}-to-max_length",
            f"{option}={value!r} has no effect: neither max_length nor the tokenizer's "
            "model_max_length is set.",
        )

    def _warn(self, tokenizer: RowAPI, topic: str, message: str) -> None:
        if self.verbose:
            tokenizer.warn_once(topic, message)

    def wants_attention_mask(self, model_input_names: Sequence[str]) -> bool:
        """Say whether `attention_mask` is returned; by default if the model takes it."""
        return either(self.return_attention_mask, "attention_mask" in model_input_names)

    def entries(self, rows: list[Encoding], model_input_names: Sequence[str]) -> dict[str, Any]:
        """Return the entries that were asked for, each a list with one item per row."""
        entries: dict[str, Any] = {"input_ids": [row.ids for row in rows]}
        if either(self.return_token_type_ids, "token_type_ids" in model_input_names):
            entries["token_type_ids"] = [row.type_ids for row in rows]
        if self.wants_attention_mask(model_input_names):
            entries["attention_mask"] = [row.attention_mask for row in rows]
        if self.return_special_tokens_mask:
            entries["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
        if self.return_offsets_mapping:
            entries["offset_mapping"] = [row.offsets for row in rows]
        if self.return_length:
            entries["length"] = [len(row) for row in rows]
        return entries


#: The names of all options.
OPTIONS = tuple(option.name for option in fields(EncodeOptions))


def either(asked: bool | None, default: bool) -> bool:
    """Return what was asked for; the default if it was left open."""
    return default if asked is None else asked


def strategy(what: str, value: Any, allowed: tuple[str, ...], on: str, off: str) -> str:
    """Return the strategy of an option: its name, or True or False."""
    if value is True:
        return on
    if value is False or value is None:
        return off
    check_choice(what, value, allowed)
    return allowed[allowed.index(value)]  # a plain string, also for a member of an enumeration
