"""Ids to text, in core TensorFlow ops."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import tensorflow as tf

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.tf.text.lookup import static_table
from gpt2x.tokenization.engine import CLEANED_UP


class TextDecoder(tf.Module):
    """Joins the bytes of tokens and decodes them as UTF-8.

    Args:
        tokens: the bytes of each id.
        special_ids: ids of special tokens.
        errors: treatment of bytes that are not UTF-8: "replace" them with U+FFFD, as Python's
            decoder does; "ignore" them; "strict" raises.
    """

    def __init__(
        self, tokens: Mapping[int, bytes], special_ids: Collection[int], errors: str
    ) -> None:
        super().__init__(name="text_decoder")
        check_choice("errors", errors, ("replace", "ignore", "strict"))
        self._errors = errors
        # Ids may have gaps, and a model more embeddings than tokens, so ids are not rows of the
        # table. The last row, without text, is for ids without a token.
        self._row = static_table(
            tokens.keys(),
            range(len(tokens)),
            key_dtype=tf.int64,
            value_dtype=tf.int32,
            default=len(tokens),
        )
        with tf.init_scope():
            self._bytes = tf.constant([*tokens.values(), b""], tf.string)
            is_special = [token_id in special_ids for token_id in tokens]
            self._is_special = tf.constant([*is_special, False])

    def __call__(
        self, ids: tf.RaggedTensor, *, skip_special_tokens: bool, clean_up_spaces: bool
    ) -> tf.Tensor:
        """Turn rows of ids into text: integer ragged [B, (T)] -> string [B].

        Raises:
            InvalidInputError: for a negative id; in a graph `tf.errors.InvalidArgumentError`, when
                it runs.
        """
        _check_not_negative(ids.flat_values)
        rows = self._row.lookup(tf.cast(ids.flat_values, tf.int64))
        content = tf.gather(self._bytes, rows)
        if skip_special_tokens:
            content = tf.where(tf.gather(self._is_special, rows), "", content)
        text = tf.strings.reduce_join(ids.with_flat_values(content), axis=-1)
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors=self._errors)
        if clean_up_spaces:
            for spaced, joined in CLEANED_UP.items():
                text = tf.strings.regex_replace(text, rf"\Q{spaced}\E", joined)
        return text


def _check_not_negative(ids: tf.Tensor) -> None:
    if not tf.executing_eagerly():
        tf.debugging.assert_non_negative(
            ids, "Cannot decode a negative number: it is not a token id."
        )
        return
    negative = tf.boolean_mask(ids, ids < 0)
    if tf.size(negative):
        raise InvalidInputError(f"Cannot decode {int(negative[0])}: it is not a token id.")
