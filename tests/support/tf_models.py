"""Tiny models and arrays for the tests of the TensorFlow backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x import tf as gpt2x_tf
from gpt2x.config import GPT2Config
from support.contract.backend import Backend
from support.golden_data import GoldenCase

TINY = {"vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}


def tiny_config(**fields: Any) -> GPT2Config:
    """Return a config for tests; its special ids lie in the vocabulary, and weights spread wide."""
    special = {"bos_token_id": 60, "eos_token_id": 60, "initializer_range": 0.3}
    return GPT2Config(**{**TINY, **special, **fields})


def tiny_model(
    kind: type[gpt2x_tf.TFGPT2PreTrainedModel] = gpt2x_tf.TFGPT2LMHeadModel,
    dtype: str | None = None,
    **fields: Any,
) -> Any:
    """Return a model with random weights, biases and layer norms."""
    rng = np.random.default_rng(0)
    model = kind(tiny_config(**fields), dtype=dtype)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "gamma"):
            noise = rng.normal(float(weight.name == "gamma"), 0.2, weight.shape)
            weight.assign(noise.astype("float32"))
    return model


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run functions op by op, as TensorFlow offers it for debugging."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def random_ids(*shape: int, vocab_size: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.int32)


def golden_model(case: GoldenCase, **options: Any) -> Any:
    """Load the model of a golden case."""
    kind = getattr(gpt2x_tf, "TF" + case.settings["class"])
    return kind.from_pretrained(case.folder, config=GPT2Config.from_dict(case.config), **options)


BACKEND = Backend(gpt2x_tf, "TF", tiny_model, tf.constant, np.asarray)
