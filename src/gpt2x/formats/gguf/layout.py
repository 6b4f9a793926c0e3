"""The format GGUF, for the reader and the writer: types, and the names of GPT-2's parts.

A header of typed key-value pairs, a table of tensors, then their data, aligned. Dimensions are
listed from the fastest to the slowest; projections are (out, in).

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gpt2x.weights.lazy import BFLOAT16

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
ARCHITECTURE = "gpt2"

BLOCK = 32  # elements of a Q8_0 block
BLOCK_DTYPE = np.dtype([("scale", "<f2"), ("values", "i1", (BLOCK,))])

# name -> (type of the tensors, "general.file_type")
TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (0, 0),
    "f16": (1, 1),
    "q8_0": (8, 7),
    "bf16": (30, 32),
}
Q8_0 = 8
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: BFLOAT16}

# The types of values in the header.
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

#: Our module -> llama.cpp's name of its tensors.
MODULES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}
