"""Inferring the config of a checkpoint without one from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.weights.lazy import LazyTensor

#: Width of a head in every GPT-2 that OpenAI published. Shapes do not show the number of heads.
HEAD_DIM = 64

_OPENAI_END_OF_TEXT = 50256


def infer_config(tensors: Mapping[str, LazyTensor], n_head: int | None = None) -> dict[str, Any]:
    """Return the GPT2Config fields that the tensors determine.

    Args:
        tensors: canonical name -> tensor.
        n_head: number of heads; by default heads are 64 wide, as in GPT-2.

    Raises:
        CheckpointError: if the tensors are not those of a GPT-2, or if the width is not a multiple
            of 64 and `n_head` is not given.
    """
    needed = ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight")
    lacking = [n for n in needed if n not in tensors or len(tensors[n].shape) != 2]
    if lacking:
        raise CheckpointError(
            f"No config, and it cannot be inferred: the checkpoint lacks {', '.join(lacking)}."
        )
    vocab_size, width = tensors["wte.weight"].shape
    if n_head is None and width % HEAD_DIM:
        raise CheckpointError(
            f"No config, and the number of heads cannot be inferred from a width of {width}; "
            "pass n_head=... (--n-head), or put a config.json beside the weights."
        )
    layers = {int(m[1]) for name in tensors if (m := re.match(r"h\.(\d{1,9})\.", name))}
    if max(layers) >= len(tensors):
        raise CheckpointError(
            f"No config, and it cannot be inferred: the {len(tensors)} tensors of the checkpoint "
            f"cannot be of {max(layers) + 1} blocks."
        )
    inner = tensors["h.0.mlp.c_fc.weight"].shape[1]
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "n_positions": tensors["wpe.weight"].shape[0],
        "n_embd": width,
        "n_layer": max(layers) + 1,
        "n_head": n_head or width // HEAD_DIM,
        "n_inner": None if inner == 4 * width else inner,
        **end_of_text_ids(vocab_size),
    }
    if any(".crossattention." in name for name in tensors):
        config["add_cross_attention"] = True
    if "lm_head.weight" in tensors:
        config["tie_word_embeddings"] = same_values(
            tensors["lm_head.weight"], tensors["wte.weight"]
        )
    summary = tensors.get("multiple_choice_head.summary.weight")
    if summary is not None and summary.shape[:1] != (1,):
        config["summary_proj_to_labels"] = False
    for head in ("score.weight", "classifier.weight"):
        if head in tensors:
            config["num_labels"] = tensors[head].shape[0]
    return config


def end_of_text_ids(vocab_size: int) -> dict[str, int | None]:
    """The config's ids of start and end: OpenAI's token, where the vocabulary has it."""
    end_of_text = _OPENAI_END_OF_TEXT if vocab_size > _OPENAI_END_OF_TEXT else None
    return {"bos_token_id": end_of_text, "eos_token_id": end_of_text}


def same_values(one: LazyTensor, other: LazyTensor) -> bool:
    """Return whether two tensors are equal bit for bit, reading them in blocks if possible."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    pairs = zip(one.blocks(), other.blocks(), strict=True)
    return all(np.array_equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
