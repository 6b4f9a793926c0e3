"""Token healing: a prompt's last token is chosen again, among the tokens that begin with its text.

A prompt that ends inside a word, or before what the vocabulary has as one token ("http:" of
"http://"), would otherwise be continued as no text that the model has read is.

Source: transformers 4.57, `heal_tokens`.

B prompts, T columns of their ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError

#: From a prompt int [1, T], and the token that is its padding, to the logits after it: float [V].
NextLogits = Callable[[np.ndarray, int | None], np.ndarray]

# Added to the logits of the tokens that begin with the last one's text, and to its own once more.
ALTERNATIVE, ITSELF = 10.0, 1.0


def check_tokenizer(tokenizer: Any) -> None:
    """Raise InvalidInputError unless there is a tokenizer."""
    if not hasattr(tokenizer, "batch_decode"):
        raise InvalidInputError(
            "Token healing reads the prompt with the model's tokenizer; pass it as tokenizer=, "
            f"not {tokenizer!r}."
        )


def heal(next_logits: NextLogits, input_ids: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Return prompts int [B, T] with their last tokens healed, as int32 [B, new T].

    The prompts are decoded, without special tokens and white space at their ends, and encoded
    again. Then the last column is healed. A token stays as it is if no other token begins with its
    text, if it begins with a space or is not ASCII, or if it is all that its row has; beside
    longer prompts, such a row is healed after bos. Rows that end in padding stay, so pad on the
    left.

    Raises:
        InvalidInputError: if padding is needed and the tokenizer has none.
    """
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    ids = _encoded_again(input_ids, tokenizer)
    if bos is not None and pad is not None:
        ids[ids == bos] = pad
    if ids.shape[1] < 2:
        return ids
    for row in ids:
        text = row if pad is None else row[row != pad]
        options = _alternatives(int(row[-1]), tokenizer) if text.size else []
        if len(options) < 2 or (text.size == 1 and bos is None):
            continue
        before = row[None, :-1].copy()
        if text.size == 1:
            before[0, -1] = bos
        row[-1] = _chosen(next_logits(before, pad), options, int(row[-1]))
    return ids


def heal_each(
    next_logits: NextLogits,
    input_ids: np.ndarray,
    mask: np.ndarray | None,
    tokenizer: Any,
    fill: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts healed each by itself, int32 [B, new T], and their mask, int32 of that shape.

    Padding is on the left. A prompt without text (special tokens alone) stays as it is.

    Args:
        next_logits: of the model.
        input_ids: int [B, T].
        mask: [B, T], 0 at padding; or None.
        tokenizer: of the model.
        fill: the padding of the result if the prompts have none.
    """
    is_text = np.ones(input_ids.shape, np.bool_) if mask is None else mask != 0
    rows = []
    for row, kept in zip(input_ids, is_text, strict=True):
        healed = heal(next_logits, row[None, kept], tokenizer)[0]
        rows.append(healed if healed.size else row[kept])
    width = max(map(len, rows))
    pad = fill if is_text.all() else input_ids[~is_text][0]
    ids = np.full((len(rows), width), pad, np.int32)
    new_mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        new_mask[index, width - len(row) :] = 1
    return ids, new_mask


def _encoded_again(input_ids: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Return the prompts' texts as ids int32 [B, T], padded as the tokenizer pads."""
    texts = tokenizer.batch_decode(input_ids.tolist(), skip_special_tokens=True)
    rows = tokenizer([text.strip() for text in texts])["input_ids"]
    width, pad = max(map(len, rows)), tokenizer.pad_token_id
    if pad is None and any(len(row) < width for row in rows):
        raise InvalidInputError(
            "Prompts of different lengths need padding, and the tokenizer has no pad token; set "
            "it, for example tokenizer.pad_token = tokenizer.eos_token."
        )
    ids = np.full((len(rows), width), pad or 0, np.int32)
    on_left = tokenizer.padding_side == "left"
    for index, row in enumerate(rows):
        start = width - len(row) if on_left else 0
        ids[index, start : start + len(row)] = row
    return ids


def _alternatives(token: int, tokenizer: Any) -> list[int]:
    """Return the tokens that begin with the text of `token`, which is one of them; or none.

    In a byte-level vocabulary, only printable ASCII stands for itself.
    """
    text = tokenizer.decode([token])
    if not text or tokenizer.convert_ids_to_tokens(token) != text:
        return []
    return [id_ for name, id_ in tokenizer.get_vocab().items() if name.startswith(text)]


def _chosen(logits: np.ndarray, options: list[int], token: int) -> int:
    """Return the likeliest token once `options`, and among them `token`, are favoured."""
    bias = np.zeros(len(logits), np.float32)
    bias[[option for option in options if option < len(logits)]] = ALTERNATIVE
    bias[token] += ITSELF
    return int((logits + bias).argmax())
