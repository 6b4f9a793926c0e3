"""The tiny reference models: their configs, and the random weights that fill every tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2PreTrainedModel

# Odd sizes on purpose: a vocabulary that is not a multiple of 8, and an inner width that is not
# four times the embedding, show up whatever takes a shape for granted.
PLAIN: dict[str, Any] = {
    "vocab_size": 97,
    "n_positions": 40,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 56,
    "bos_token_id": 95,
    "eos_token_id": 96,
}
UNTIED: dict[str, Any] = {
    "vocab_size": 101,
    "n_positions": 36,
    "n_embd": 28,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 60,
    "bos_token_id": 99,
    "eos_token_id": 100,
    "tie_word_embeddings": False,
}
COMPACT: dict[str, Any] = {
    "vocab_size": 53,
    "n_positions": 20,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 28,
    "bos_token_id": 51,
    "eos_token_id": 52,
}
SMALL: dict[str, Any] = {
    "vocab_size": 37,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 20,
    "bos_token_id": 35,
    "eos_token_id": 36,
}
# The vocabulary of tokenizer/tiny_fast_4, whose every special token is the same.
PIPELINE: dict[str, Any] = {
    "vocab_size": 409,
    "n_positions": 160,
    "n_embd": 12,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 20,
    "bos_token_id": 406,
    "eos_token_id": 406,
    "pad_token_id": 406,
}
# Layers enough for several to be contrasted with the last one.
DEEP: dict[str, Any] = {
    "vocab_size": 89,
    "n_positions": 40,
    "n_embd": 16,
    "n_layer": 10,
    "n_head": 2,
    "n_inner": 28,
    "bos_token_id": 87,
    "eos_token_id": 88,
}
# No text holds it but as padding. Not 0: beam search of transformers 4 takes 0 for no pad id.
PAD = 2


def labels(*names: str) -> dict[str, Any]:
    """The fields of a config that name the labels of a classifier."""
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


# folder: class, config, seed of the weights
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "plain": ("GPT2LMHeadModel", PLAIN, 26),
    "untied": ("GPT2LMHeadModel", UNTIED, 45),
    "compact": ("GPT2LMHeadModel", COMPACT, 1),
    "cross_attention": ("GPT2LMHeadModel", {**COMPACT, "add_cross_attention": True}, 2),
    "double_heads": ("GPT2DoubleHeadsModel", COMPACT, 3),
    "double_heads_hidden": (
        "GPT2DoubleHeadsModel",
        {**COMPACT, "summary_proj_to_labels": False, "summary_activation": "tanh"},
        4,
    ),
    "deep": ("GPT2LMHeadModel", DEEP, 12),
    "deep_untied": (
        "GPT2LMHeadModel",
        {**DEEP, "n_layer": 8, "tie_word_embeddings": False},
        13,
    ),
    "regression": (
        "GPT2ForSequenceClassification",
        {**COMPACT, "num_labels": 1, "pad_token_id": PAD},
        5,
    ),
    "sequence_classification": (
        "GPT2ForSequenceClassification",
        {**COMPACT, "num_labels": 3, "pad_token_id": PAD},
        6,
    ),
    "token_classification": ("GPT2ForTokenClassification", {**COMPACT, "num_labels": 4}, 7),
    "question_answering": ("GPT2ForQuestionAnswering", COMPACT, 8),
    "small": (
        "GPT2LMHeadModel",
        {**SMALL, "add_cross_attention": True, "tie_word_embeddings": False},
        9,
    ),
    "small_double_heads": ("GPT2DoubleHeadsModel", SMALL, 10),
    "small_classification": ("GPT2ForSequenceClassification", {**SMALL, "num_labels": 3}, 11),
    "pipelines/text_generation": ("GPT2LMHeadModel", PIPELINE, 12),
    "pipelines/text_classification": (
        "GPT2ForSequenceClassification",
        {**PIPELINE, **labels("bad", "fair", "good")},
        13,
    ),
    "pipelines/token_classification": (
        "GPT2ForTokenClassification",
        {**PIPELINE, **labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")},
        14,
    ),
    "pipelines/question_answering": ("GPT2ForQuestionAnswering", PIPELINE, 15),
    "pipelines/feature_extraction": ("GPT2Model", PIPELINE, 16),
}

# Large enough that logits are peaked (so that greedy choices are not near ties), and that a bias
# or a layer norm left out changes every output.
EMBEDDING_SCALE = 0.5
WEIGHT_SCALE = 0.5
LAYER_NORM_SCALE = 0.3


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Fill every parameter from numpy's PCG64, whose stream does not change with torch."""
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = generator.standard_normal(tuple(parameter.shape))
            if ".ln_" in name:
                value = LAYER_NORM_SCALE * noise + (1.0 if name.endswith("weight") else 0.0)
            elif name.endswith(("wte.weight", "wpe.weight", "lm_head.weight")):
                value = EMBEDDING_SCALE * noise
            else:
                value = WEIGHT_SCALE * noise
            parameter.copy_(torch.from_numpy(value))


def write_models(out: Path) -> None:
    """Save each model of ``MODELS`` as transformers saves it, in a folder of its name."""
    for folder, (class_name, config, seed) in MODELS.items():
        model = getattr(transformers, class_name)(GPT2Config(**config))
        randomise(model, seed)
        model.save_pretrained(out / folder)


def load_model(
    out: Path, folder: str, class_name: str | None = None, **config: Any
) -> GPT2PreTrainedModel:
    """The model of a folder under eager attention, in evaluation mode, config changes applied."""
    cls = getattr(transformers, class_name or MODELS[folder][0])
    return cls.from_pretrained(out / folder, attn_implementation="eager", **config).eval()


def random_ids(seed: int, *shape: int, below: int = 90) -> torch.Tensor:
    """int64 ids from 3 on: neither the padding nor, for the plain model, a special id."""
    return torch.from_numpy(np.random.default_rng(seed).integers(3, below, shape))


def compact_ids(seed: int, *shape: int) -> torch.Tensor:
    """The same for the models of the compact config."""
    return random_ids(seed, *shape, below=50)


def random_floats(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """float32 normal numbers."""
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))
