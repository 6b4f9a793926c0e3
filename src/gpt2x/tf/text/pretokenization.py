r"""GPT-2's split of text into words, as comparisons of neighbouring characters.

The pattern (see `gpt2x.tokenization.pretokenization`) is

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

A regular expression engine runs it from left to right, but where a word begins depends on a few
characters around that place only, so that all places can be decided at once. TensorFlow's RE2
cannot do it: it lacks lookahead, and has its own idea of what letters and white space are.
"""

from __future__ import annotations

import tensorflow as tf

from gpt2x.tokenization.unicode import SPACE, character_classes

# The contractions, by the letters after the apostrophe.
_ONE_LETTER = ("s", "t", "m", "d")
_TWO_LETTERS = (("r", "e"), ("v", "e"), ("l", "l"))


class CharacterClasses(tf.Module):
    """The class of each code point, from the table that all tokenizers share."""

    def __init__(self) -> None:
        super().__init__(name="character_classes")
        with tf.init_scope():
            self._table = tf.constant(character_classes())

    def __call__(self, code_points: tf.Tensor) -> tf.Tensor:
        """Look up LETTER, NUMBER, SPACE or OTHER: int32 [C] -> int8 [C]."""
        return tf.gather(self._table, code_points)


def word_begins(code_points: tf.Tensor, classes: tf.Tensor, begins_piece: tf.Tensor) -> tf.Tensor:
    """Return for each character whether a word begins with it.

    Args:
        code_points: int32 [C], the characters of all texts, concatenated.
        classes: int8 [C], their classes.
        begins_piece: bool [C], true where a text (or a part that is split on its own) begins.

    Returns:
        bool [C]; true wherever `begins_piece` is.
    """
    is_white = tf.equal(classes, SPACE)
    ends_piece = shift_left(begins_piece, fill=True)
    same_class = tf.equal(classes, shift_right(classes)) & ~begins_piece

    # ` ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`: a word runs on while the class is the same. The
    # space before it, if there is one, is where it begins.
    after_space = shift_right(tf.equal(code_points, ord(" "))) & ~begins_piece
    begins_visible = ~is_white & ~same_class & ~after_space

    # `\s+(?!\S)|\s+`: white space forms one word, except the last one before a visible character.
    # That one belongs to the next word if it is a space; else it is a word.
    before_visible = ~shift_left(is_white) & ~ends_piece
    begins_white = is_white & (~same_class | before_visible)

    return _split_contractions(code_points, begins_visible | begins_white, begins_piece)


def _split_contractions(
    code_points: tf.Tensor, begins_word: tf.Tensor, begins_piece: tf.Tensor
) -> tf.Tensor:
    """Apply `'s|'t|'re|'ve|'m|'ll|'d`, which come first where a word begins.

    An apostrophe inside a word (after a space or other punctuation) does not begin one. A
    contraction ends with a letter, and an apostrophe does not continue a word of letters, so
    contractions do not depend on each other.
    """
    # Padded, so that at every place the three characters from it on can be read.
    code_points = tf.concat([code_points, tf.zeros([3], code_points.dtype)], axis=0)
    begins_piece = tf.concat([begins_piece, tf.ones([3], tf.bool)], axis=0)
    apostrophe = tf.where(begins_word & tf.equal(code_points[:-3], ord("'")))  # [K, 1]
    second = tf.gather_nd(code_points, apostrophe + 1)
    third = tf.gather_nd(code_points, apostrophe + 2)
    has_second = ~tf.gather_nd(begins_piece, apostrophe + 1)
    has_third = has_second & ~tf.gather_nd(begins_piece, apostrophe + 2)

    short, long = tf.zeros_like(has_second), tf.zeros_like(has_third)
    for letter in _ONE_LETTER:
        short |= has_second & tf.equal(second, ord(letter))
    for first_letter, second_letter in _TWO_LETTERS:
        long |= (
            has_third & tf.equal(second, ord(first_letter)) & tf.equal(third, ord(second_letter))
        )

    # A word does not begin within a contraction; one begins after it.
    after = apostrophe + tf.where(long, tf.constant(3, tf.int64), 2)[:, None]
    apostrophe = tf.boolean_mask(apostrophe, short | long)
    after = tf.boolean_mask(after, short | long)
    begins_word = tf.concat([begins_word, tf.ones([3], tf.bool)], axis=0)
    begins_word = tf.tensor_scatter_nd_update(
        begins_word, apostrophe + 1, tf.zeros_like(apostrophe[:, 0], tf.bool)
    )
    begins_word = tf.tensor_scatter_nd_update(
        begins_word, after, tf.ones_like(after[:, 0], tf.bool)
    )
    return begins_word[:-3]


def shift_right(values: tf.Tensor, *, fill: int | bool = False) -> tf.Tensor:
    """Shift a vector right: each place gets the value of the place before it."""
    return tf.concat([tf.fill([1], tf.cast(fill, values.dtype)), values], axis=0)[:-1]


def shift_left(values: tf.Tensor, *, fill: int | bool = False) -> tf.Tensor:
    """Shift a vector left: each place gets the value of the place after it."""
    return tf.concat([values, tf.fill([1], tf.cast(fill, values.dtype))], axis=0)[1:]
