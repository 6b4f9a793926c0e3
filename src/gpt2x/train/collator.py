"""`DataCollatorForLanguageModeling`: batches for a training loop of one's own.

Source: transformers 4.57, the class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.backends import to_tensor
from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.tokenization import BatchEncoding


class DataCollatorForLanguageModeling:
    """Makes a padded batch with labels of encoded texts; labels are -100 at the padding.

    transformers finds the padding by its token, so that it also leaves out the end-of-text token
    where that is the padding; here the mask tells, and a text's own tokens are labels.

    Args:
        tokenizer: pads on its `padding_side`, with its `pad_token` or else its end-of-text token.
        mlm: False; GPT-2 predicts the next token, not masked ones.
        pad_to_multiple_of: makes the rows as long as a multiple of this.
        return_tensors: "pt", "tf", "jax" or "np".

    Raises:
        InvalidInputError: for `mlm=True`, or a tokenizer without a token to pad with.

    >>> from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
    >>> tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    >>> collate = DataCollatorForLanguageModeling(tokenizer, return_tensors="np")
    >>> collate([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])["labels"].tolist()
    [[5, 6, 7], [8, -100, -100]]
    """

    def __init__(
        self,
        tokenizer: Any,
        mlm: bool = False,
        *,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
    ) -> None:
        if mlm:
            raise InvalidInputError("GPT-2 predicts the next token: pass mlm=False.")
        pad = tokenizer.pad_token_id
        self._pad = tokenizer.eos_token_id if pad is None else pad
        if self._pad is None:
            raise InvalidInputError("The tokenizer has no pad_token to fill rows with; set it.")
        self.tokenizer = tokenizer
        self.mlm = mlm
        self.pad_to_multiple_of = pad_to_multiple_of
        self.return_tensors = return_tensors

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> BatchEncoding:
        """Return `input_ids`, `attention_mask` and `labels`, int [B, T].

        Args:
            features: for each text a mapping with `input_ids`, and with `attention_mask` if some
                of them do not count; or its ids alone.
            return_tensors: in place of the collator's.
        """
        rows = [each if isinstance(each, Mapping) else {"input_ids": each} for each in features]
        ids = [np.asarray(row["input_ids"]).reshape(-1) for row in rows]
        width = max(map(len, ids))
        width += -width % (self.pad_to_multiple_of or 1)
        batch = {
            "input_ids": np.full((len(ids), width), self._pad, np.int64),
            "attention_mask": np.zeros((len(ids), width), np.int64),
        }
        for number, (row, text) in enumerate(zip(rows, ids, strict=True)):
            is_left = self.tokenizer.padding_side == "left"
            place = slice(width - len(text), None) if is_left else slice(len(text))
            batch["input_ids"][number, place] = text
            batch["attention_mask"][number, place] = row.get("attention_mask", 1)
        counts = batch["attention_mask"].astype(bool)
        batch["labels"] = np.where(counts, batch["input_ids"], IGNORE_INDEX)
        kind = return_tensors or self.return_tensors
        return BatchEncoding({name: to_tensor(array, kind) for name, array in batch.items()})
