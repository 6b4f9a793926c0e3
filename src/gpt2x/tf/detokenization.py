"""Ids to text, in core TensorFlow ops."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import tensorflow as tf

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.tf.lookup import static_table

_NO_ROW = -1


class Detokenizer(tf.Module):
    """Joins the bytes of tokens, and decodes them.

    Args:
        tokens: the bytes of each id.
        special_ids: ids of special tokens.
        errors: what becomes of bytes that are not UTF-8: "replace" them with U+FFFD, as Python's
            decoder does, "ignore" them, or "strict" to raise.
    """

    def __init__(
        self, tokens: Mapping[int, bytes], special_ids: Collection[int], errors: str
    ) -> None:
        super().__init__(name="detokenizer")
        check_choice("errors", errors, ("replace", "ignore", "strict"))
        self._errors = errors
        # Ids need not be dense, so they are looked up, and not used as rows.
        self._row = static_table(
            tokens.keys(),
            range(len(tokens)),
            key_dtype=tf.int64,
            value_dtype=tf.int32,
            default=_NO_ROW,
        )
        with tf.init_scope():
            self._token = tf.constant(list(tokens.values()), tf.string)
            self._is_special = tf.constant([token_id in special_ids for token_id in tokens])

    def __call__(self, ids: tf.RaggedTensor, *, skip_special_tokens: bool) -> tf.Tensor:
        """Turn rows of ids into text: integer ragged [B, (T)] -> string [B].

        Raises:
            InvalidInputError: if an id has no token; in a graph `tf.errors.InvalidArgumentError`,
                when it runs.
        """
        rows = self._row.lookup(tf.cast(ids.flat_values, tf.int64))
        _check_known(ids.flat_values, rows)
        if skip_special_tokens:
            kept = ~tf.gather(self._is_special, rows)
            ids = tf.ragged.boolean_mask(ids, ids.with_flat_values(kept))
            rows = tf.boolean_mask(rows, kept)
        text = tf.strings.reduce_join(ids.with_flat_values(tf.gather(self._token, rows)), axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors=self._errors)


def _check_known(ids: tf.Tensor, rows: tf.Tensor) -> None:
    if tf.executing_eagerly():
        unknown = tf.boolean_mask(ids, rows < 0)
        if tf.size(unknown):
            raise InvalidInputError(_no_token(f"the id {int(unknown[0])}"))
    else:
        tf.debugging.assert_non_negative(rows, _no_token("one of the ids"))


def _no_token(what: str) -> str:
    return (
        f"There is no token for {what}. Ids are those of the vocabulary and of added tokens; leave "
        "out others, such as a label of -100, with `attention_mask`."
    )
