"""Make `training/collator.json`: batches of transformers' DataCollatorForLanguageModeling.

    python tests/golden/make_collator.py

in an environment with PyTorch and transformers 4.57.6. Texts are of the tokenizer `tiny_5`, whose
padding is a token that no text has.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from transformers import DataCollatorForLanguageModeling, GPT2TokenizerFast

HERE = Path(__file__).parent
TEXTS = ["The cat sat on the mat.", "A dog", "", "Where did they go?<|endoftext|>"]
PAD = "<|pad|>"


def main() -> None:
    """Write the texts' tokens, and a case for each combination of the settings."""
    tokenizer = GPT2TokenizerFast.from_pretrained(HERE / "tokenizer" / "tiny_5", pad_token=PAD)
    features = [dict(tokenizer(text)) for text in TEXTS]
    cases = []
    for side, multiple, tensors in product(("right", "left"), (None, 8), ("np", "pt")):
        tokenizer.padding_side = side
        collate = DataCollatorForLanguageModeling(
            tokenizer, mlm=False, pad_to_multiple_of=multiple, return_tensors=tensors
        )
        batch = collate([dict(feature) for feature in features])
        cases.append(
            {
                "padding_side": side,
                "pad_to_multiple_of": multiple,
                "return_tensors": tensors,
                "dtypes": {name: str(array.dtype) for name, array in batch.items()},
                "batch": {name: array.tolist() for name, array in batch.items()},
            }
        )
    content = {"pad_token": PAD, "features": features, "cases": cases}
    path = HERE / "training" / "collator.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
