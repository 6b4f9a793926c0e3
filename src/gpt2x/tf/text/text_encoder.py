"""Text to ids, in core TensorFlow ops.

    texts -> characters -> pieces -> words -> distinct words -> ids
      [B]       [C]                   [W]

A piece is an added token, or the text between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf
from tokenizers import AddedToken

from gpt2x.tf.text.added_tokens import AddedTokenFinder, Pieces
from gpt2x.tf.text.bpe import BytePairMerges
from gpt2x.tf.text.pretokenization import CharacterClasses, word_begins
from gpt2x.tokenization.bpe import Merge, token_to_bytes, unicode_to_byte


class TextEncoder(tf.Module):
    """Turns text into ids, as `GPT2Tokenizer` does without special tokens around it.

    Args:
        vocab: id of each token, tokens spelt as in vocab.json.
        merges: pairs of tokens, the first to merge first.
        added_tokens: by id, tokens that are found in text before it is split into words.
        unknown_id: id of a byte that the vocabulary lacks; if None, such a byte is an error.
        add_prefix_space: whether text that does not begin with a space gets one.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[Merge],
        added_tokens: Mapping[int, AddedToken],
        unknown_id: int | None,
        add_prefix_space: bool,
    ) -> None:
        super().__init__(name="text_encoder")
        self._add_prefix_space = add_prefix_space
        self._classes = CharacterClasses()
        self._added_tokens = AddedTokenFinder(added_tokens)
        # Tokens that are not bytes are only found as added tokens; merges do not make them.
        self._merges = BytePairMerges(
            {
                (token_to_bytes(left), token_to_bytes(right)): rank
                for rank, (left, right) in enumerate(merges)
                if _stands_for_bytes(left) and _stands_for_bytes(right)
            },
            {token_to_bytes(token): vocab[token] for token in vocab if _stands_for_bytes(token)},
            unknown_id,
        )

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Encode texts: string [B] -> int32 ragged [B, (T)].

        Invalid UTF-8 is read as ``bytes.decode("utf-8", errors="replace")`` reads it.
        """
        characters = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        code_points = characters.values  # [C]
        text_of = characters.value_rowids()  # [C]
        classes = self._classes(code_points)
        pieces = self._added_tokens(code_points, classes, _changes(text_of))
        if self._add_prefix_space:
            code_points, text_of, pieces = _put_spaces_before(code_points, text_of, pieces)
            classes = self._classes(code_points)

        starts = tf.where(word_begins(code_points, classes, pieces.begins))[:, 0]
        starts, token_ids = pieces.without_words_in_tokens(starts)  # [W] each
        words = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_starts(code_points, starts, validate=False), "UTF-8"
        )
        return tf.RaggedTensor.from_value_rowids(
            self._encode_words(words, token_ids),
            tf.gather(text_of, starts),
            nrows=characters.nrows(),
            validate=False,
        ).merge_dims(1, 2)

    def _encode_words(self, words: tf.Tensor, token_ids: tf.Tensor) -> tf.RaggedTensor:
        """Encode words, or give added tokens their id: [W], [W] -> int32 ragged [W, (ids)]."""
        is_text = token_ids < 0
        text_places, token_places = tf.where(is_text)[:, 0], tf.where(~is_text)[:, 0]
        # Words repeat; each distinct word is merged once.
        distinct, row_of_text = tf.unique(tf.gather(words, text_places))
        ids_of_tokens = tf.RaggedTensor.from_tensor(tf.gather(token_ids, token_places)[:, None])
        rows = tf.concat([self._merges(distinct), ids_of_tokens], axis=0)
        row_of_token = tf.size(distinct) + tf.range(tf.size(token_places))
        row = tf.dynamic_stitch(
            [tf.cast(text_places, tf.int32), tf.cast(token_places, tf.int32)],
            [row_of_text, row_of_token],
        )
        return tf.gather(rows, row)


def _stands_for_bytes(token: str) -> bool:
    return bool(token) and all(character in unicode_to_byte() for character in token)


def _changes(values: tf.Tensor) -> tf.Tensor:
    """Mark places that differ from the one before, and the first: [N] -> bool [N]."""
    differs = tf.not_equal(values[1:], values[:-1])
    return tf.concat([tf.ones_like(values[:1], tf.bool), differs], axis=0)


def _put_spaces_before(
    code_points: tf.Tensor, text_of: tf.Tensor, pieces: Pieces
) -> tuple[tf.Tensor, tf.Tensor, Pieces]:
    """Put a space before each piece of text that does not begin with one."""
    lacks_space = pieces.begins & (pieces.token_id < 0) & tf.not_equal(code_points, ord(" "))
    # A character that needs a space before it is repeated, and its first copy becomes the space.
    n_copies = tf.where(lacks_space, 2, 1)
    source = tf.repeat(tf.range(tf.size(code_points)), n_copies)
    is_first = _changes(source)
    is_space = is_first & tf.gather(lacks_space, source)
    return (
        tf.where(is_space, ord(" "), tf.gather(code_points, source)),
        tf.gather(text_of, source),
        Pieces(is_first & tf.gather(pieces.begins, source), tf.gather(pieces.token_id, source)),
    )
