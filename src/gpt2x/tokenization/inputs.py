"""The forms of texts in calls: strings, words, tokens or ids, in pairs and batches."""

from __future__ import annotations

from typing import Any

from gpt2x.errors import InvalidInputError

_FORMS = (
    "A text must be a string; a batch a list of strings; with is_split_into_words=True a text is a "
    "list of strings and a batch a list of such lists."
)

Pair = tuple[Any, Any]


def as_pairs(text: Any, text_pair: Any, words: bool) -> tuple[list[Pair], bool]:
    """Distinguish a text from a batch in the arguments of `__call__`.

    Args:
        text, text_pair: its arguments.
        words: whether texts are lists of words.

    Returns:
        Each text with the second one of its pair (None without), and whether it is a batch.

    Raises:
        InvalidInputError: if they are something else, or batches that differ in length.
    """
    for argument in (text, text_pair):
        if argument is not None and not _is_text_or_batch(argument, words):
            raise InvalidInputError(f"Cannot encode {_excerpt(argument)}. {_FORMS}")
    if not is_list(text) or (words and not any(map(is_list, text))):
        return [(text, text_pair)], False
    if text_pair is None:
        return as_batch(text, words), True
    if not is_list(text_pair) or len(text) != len(text_pair):
        given = len(text_pair) if is_list(text_pair) else "a single text"
        raise InvalidInputError(
            f"`text` has {len(text)} texts, so `text_pair` must have as many, not {given}."
        )
    return list(zip(text, text_pair, strict=True)), True


def as_batch(batch: Any, words: bool) -> list[Pair]:
    """Distinguish texts from pairs in a batch.

    Raises:
        InvalidInputError: if it is not a list.
    """
    if not is_list(batch):
        raise InvalidInputError(f"A batch must be a list, not {_excerpt(batch)}.")
    return [_as_pair(item, words) for item in batch]


def _as_pair(item: Any, words: bool) -> Pair:
    """Distinguish a text from a pair of texts: a pair is a tuple or list of two texts.

    As in transformers, a list of strings or lists is a pair, of words or ids a text.
    """
    if not is_list(item) or not item:
        return item, None
    holds_texts = is_list(item[0]) if words else isinstance(item[0], str) or is_list(item[0])
    if not holds_texts:
        return item, None
    if len(item) != 2:
        hint = "" if words else " For a list of words pass is_split_into_words=True."
        raise InvalidInputError(
            f"A pair must have two texts, not {len(item)}: {_excerpt(item)}.{hint}"
        )
    return item[0], item[1]


def is_list(value: Any) -> bool:
    """Return whether a value is a list or tuple."""
    return isinstance(value, (list, tuple))


def _is_text_or_batch(value: Any, words: bool) -> bool:
    """Return whether a value consists of strings, in lists at most as deep as a batch of pairs."""
    depth = 3 if words else 2

    def is_made_of_strings(part: Any, depth: int) -> bool:
        if isinstance(part, str):
            return True
        return depth > 0 and is_list(part) and all(is_made_of_strings(x, depth - 1) for x in part)

    return is_made_of_strings(value, depth)


def form_of(text: Any, words: bool) -> str:
    """Return the form of one text: "text", "words", "tokens" or "ids".

    Raises:
        InvalidInputError: if it has none of these forms.
    """
    if isinstance(text, str):
        return "text"
    if is_list(text) and all(isinstance(item, str) for item in text):
        return "words" if words else "tokens"
    if is_list(text) and all(hasattr(item, "__index__") for item in text):
        return "ids"
    raise InvalidInputError(f"Cannot encode {_excerpt(text)}. {_FORMS}")


def check_encodable(text: str) -> None:
    """Raise if a text holds half a surrogate pair."""
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
