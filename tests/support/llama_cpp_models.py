"""The GGUF files that llama.cpp ran for its golden files, as gpt2x writes them today."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from gpt2x.checkpoint import LazyTensor, convert
from gpt2x.checkpoint.writing import plan_weights
from gpt2x.config import GPT2Config
from gpt2x.weights.table import Head, parameter_shapes
from support.golden_data import GOLDEN

#: Two golden models without a tokenizer and of widths that make no whole blocks, and `write_model`.
MODELS = ("plain", "untied", "tokenized")
DTYPES = ("float32", "float16", "bfloat16", "q8_0")

TOKENIZER = GOLDEN / "tokenizer" / "tiny_slow_4"


def write_gguf(name: str, dtype: str, folder: Path) -> Path:
    """Write one of `MODELS` into a folder; return the file's path."""
    source = write_model(folder / name) if name == "tokenized" else GOLDEN / name
    path = folder / f"{name}-{dtype}.gguf"
    convert(source, path, to="gguf", dtype=dtype)
    return path


def write_model(folder: Path) -> Path:
    """A model of random weights with a tokenizer, three rows more than its 409 tokens, its own
    inner width, and the end of text that a config has by default, which is none of its ids.
    """
    if folder.exists():
        return folder
    shutil.copytree(TOKENIZER, folder)
    config = GPT2Config(vocab_size=412, n_positions=24, n_embd=32, n_layer=2, n_head=2, n_inner=96)
    generator = np.random.default_rng(0)
    tensors = {}
    for name, shape in parameter_shapes(config, Head.LM).items():
        is_scale = len(shape) == 1 and name.endswith(".weight")
        values = generator.normal(is_scale, 0.3 if len(shape) == 2 else 0.1, shape)
        tensors[name] = LazyTensor.of(values.astype(np.float32))
    plan_weights(tensors, config, Head.LM, "safetensors", "5GB").write(folder)
    config.save_pretrained(folder)
    return folder
