"""Make `prompt_cache/`: a cache that the PyTorch backend saved, and the texts that follow it.

    PYTHONPATH=src python tests/golden/make_prompt_cache.py

in an environment with PyTorch, gpt2x and transformers 4.57.6. The model is that of `plain`. The
cache holds a prefix of 7 tokens; the texts are those of transformers for whole prompts, padded on
the left: [pad | prefix | own].
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel as Reference

from gpt2x.pt import GPT2LMHeadModel

HERE = Path(__file__).parent
NEW_TOKENS = 8
OWN = ([11, 5], [90, 3, 44, 17], [60])


def main() -> None:
    """Write the two files."""
    prefix = [42, 7, 19, 88, 3, 61, 25]
    width = len(prefix) + max(map(len, OWN))
    rows = [[0] * (width - len(prefix) - len(own)) + prefix + own for own in OWN]
    mask = [[0] * (width - len(prefix) - len(own)) + [1] * (len(prefix) + len(own)) for own in OWN]
    texts = Reference.from_pretrained(HERE / "plain").generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    cache = GPT2LMHeadModel.from_pretrained(HERE / "plain").prefill(torch.tensor([prefix]))
    cache.save(HERE / "prompt_cache" / "prefix.safetensors")
    case = {"input_ids": rows, "attention_mask": mask, "sequences": texts.tolist()}
    (HERE / "prompt_cache" / "texts.json").write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    main()
