"""Cutting ragged rows of ids, and padding them to one length, in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from gpt2x.errors import InvalidInputError, check_choice, check_count
from gpt2x.tokenization.options import PADDING, SIDES, strategy

# There is only one sequence, so the two ways to truncate are the same.
_TRUNCATION = ("longest_first", "only_first", "do_not_truncate")


@dataclass(frozen=True)
class Layout:
    """How rows of ids are cut and padded.

    Attributes:
        room: texts are cut to this many ids; None does not cut.
        truncation_side: "right" or "left", where ids are removed.
        pad_token_id: id to pad with; None to leave rows ragged.
        width: dense rows are at least this long.
        multiple: the length of dense rows is a multiple of this.
        padding_side: "right" or "left".
    """

    room: int | None
    truncation_side: str
    pad_token_id: int | None
    width: int
    multiple: int
    padding_side: str

    @classmethod
    def resolve(
        cls,
        *,
        n_special: int,
        max_length: int | None,
        pad_token_id: int | None,
        padding_side: str,
        truncation_side: str,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> Layout:
        """Turn the arguments of a call into a layout; `TFGPT2Tokenizer.call` describes them.

        Args:
            n_special: number of special tokens around each text.

        Raises:
            InvalidInputError: for a value that is not allowed, for padding without a pad token, or
                for a length that is too short.
        """
        check_choice("padding_side", padding_side, SIDES)
        check_choice("truncation_side", truncation_side, SIDES)
        check_count("max_length", max_length)
        check_count("pad_token_id", pad_token_id)
        check_count("pad_to_multiple_of", pad_to_multiple_of, least=1)
        if padding is None:
            padding = "do_not_pad" if None in (max_length, pad_token_id) else "max_length"
        if truncation is None:
            truncation = max_length is not None
        padding = strategy("padding", padding, PADDING, "longest", "do_not_pad")
        truncation = strategy(
            "truncation", truncation, _TRUNCATION, "longest_first", "do_not_truncate"
        )
        pads, truncates = padding != "do_not_pad", truncation != "do_not_truncate"
        if pads and pad_token_id is None:
            raise InvalidInputError(
                "Padding needs a padding token, and this tokenizer does not have one. Set it with: "
                "tokenizer.pad_token_id = 50256 (GPT-2's end of text)"
            )
        if max_length is None and (truncates or padding == "max_length"):
            option = f"truncation={truncation!r}" if truncates else f"padding={padding!r}"
            raise InvalidInputError(
                f"{option} needs a length. Give max_length, in the call or to the layer."
            )
        length = max_length or 0
        multiple = pad_to_multiple_of or 1
        if pads and truncates and length % multiple:
            raise InvalidInputError(
                f"Texts would be truncated to {length} tokens, which is not a multiple of "
                f"pad_to_multiple_of={multiple}. Choose a max_length that is."
            )
        if truncates and length < n_special:
            raise InvalidInputError(
                f"max_length is {length}, less than the {n_special} special tokens alone."
            )
        return cls(
            room=length - n_special if truncates else None,
            truncation_side=truncation_side,
            pad_token_id=pad_token_id if pads else None,
            width=length if padding == "max_length" else 0,
            multiple=multiple,
            padding_side=padding_side,
        )

    def cut(self, texts: tf.RaggedTensor) -> tf.RaggedTensor:
        """Cut the ids of texts, without special tokens: ragged [B, (T)]."""
        if self.room is None:
            return texts
        if self.truncation_side == "right":
            return texts[:, : self.room]
        return texts[:, -self.room :] if self.room else texts[:, :0]

    def pad(self, rows: tf.RaggedTensor) -> tuple[Any, Any]:
        """Pad rows: int32 ragged [B, (T)] -> ids and mask, ragged [B, (T)] or dense [B, T]."""
        if self.pad_token_id is None:
            return rows, tf.ones_like(rows)
        lengths = rows.row_lengths()
        if self.room is not None and self.width:
            width = self.width  # rows are not longer, so the shape is known while tracing
        else:
            # Works without rows too, whose maximum is not defined.
            width = tf.reduce_max(tf.concat([lengths, [self.width]], axis=0))
            width = -(-width // self.multiple) * self.multiple
        is_token = tf.sequence_mask(lengths, width)  # [B, T]
        if self.padding_side == "left":
            is_token = tf.reverse(is_token, axis=[1])
        ids = tf.fill(tf.shape(is_token), tf.constant(self.pad_token_id, rows.dtype))
        # Row by row from left to right, the places of tokens have the order of the tokens.
        ids = tf.tensor_scatter_nd_update(ids, tf.where(is_token), rows.flat_values)
        return ids, tf.cast(is_token, rows.dtype)
