"""The fields of a `GPT2Config`: their defaults and their checks.

Source of names and defaults: transformers 4.57, `PretrainedConfig` and `GPT2Config`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from gpt2x.config.checks import Check, boolean, choice, integer, number, optional, token_ids
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import InvalidInputError, check_choice

#: Activation functions that every backend has (the parameter-free ones of transformers).
ACTIVATIONS = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)

DTYPES = ("float32", "float16", "bfloat16", "float64")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
SUMMARY_TYPES = ("last", "first", "mean", "cls_index", "attn")

#: transformers' common names of GPT-2's fields; both names are accepted everywhere.
ATTRIBUTE_MAP = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

#: Every second name of a field: those, and the names that older files use.
SECOND_NAMES = {**ATTRIBUTE_MAP, "torch_dtype": "dtype", "n_ctx": "n_positions"}

#: Fields that are not GPT-2's own. They are written only if they differ from these defaults.
COMMON_DEFAULTS: dict[str, Any] = {
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "torchscript": False,
    "dtype": None,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "architectures": None,
    "finetuning_task": None,
    "task_specific_params": None,
    "problem_type": None,
    "tokenizer_class": None,
    "prefix": None,
    "pad_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "tf_legacy_loss": False,
    "use_bfloat16": False,
}

#: Decoding options that were in configs before generation_config.json existed.
GENERATION_DEFAULTS: dict[str, Any] = {
    name: DEFAULTS[name]
    for name in (
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "num_beam_groups",
        "diversity_penalty",
    )
}

#: Fields that the models read if they are present; they have no default.
OPTIONAL_FIELDS = ("classifier_dropout", "hidden_dropout", "summary_last_dropout")


def dtype_name(name: str, value: Any) -> str:
    """Check for a floating dtype by name, or as torch, numpy, TensorFlow or JAX spell it."""
    if not isinstance(value, str):
        # torch: str(dtype) is 'torch.float32'; numpy, TensorFlow: .name; JAX: a class's __name__.
        value = getattr(value, "name", None) or getattr(value, "__name__", None) or str(value)
    value = value.rpartition(".")[2]
    check_choice(name, value, DTYPES)
    return value


def pruned_heads(name: str, value: Any) -> dict[int, list[int]]:
    """Check for head indices by layer; layers that JSON made strings become ints again."""
    try:
        return {int(layer): [operator.index(head) for head in value[layer]] for layer in value}
    except (TypeError, ValueError, KeyError, IndexError):
        raise InvalidInputError(
            f"{name} must map each layer to a list of head indices; got {value!r}."
        ) from None


def id2label(name: str, value: Any) -> dict[int, str]:
    """Check for labels by id; ids that JSON made strings become ints again."""
    try:
        labels = {int(index): value[index] for index in dict(value)}
        hash(tuple(labels.values()))  # they become keys of label2id
        return labels
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"{name} must be a dictionary from label ids to labels; got {value!r}."
        ) from None


def label2id(name: str, value: Any) -> dict[str, int]:
    """Check for label ids by label."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"{name} must be a dictionary from labels to label ids; got {value!r}."
        )
    return dict(value)


_probability = number(0, 1)
_token = optional(token_ids)

#: The check of each field that has one; other fields take any value.
CHECKS: dict[str, Check] = {
    "vocab_size": integer(1),
    "n_positions": integer(1),
    "n_embd": integer(1),
    "n_layer": integer(1),
    "n_head": integer(1),
    "n_inner": optional(integer(1)),
    "activation_function": choice(ACTIVATIONS),
    "resid_pdrop": _probability,
    "embd_pdrop": _probability,
    "attn_pdrop": _probability,
    "layer_norm_epsilon": number(0),
    "initializer_range": number(0),
    "summary_type": choice(SUMMARY_TYPES),
    "summary_use_proj": boolean,
    "summary_activation": optional(choice(ACTIVATIONS)),
    "summary_proj_to_labels": boolean,
    "summary_first_dropout": _probability,
    "scale_attn_weights": boolean,
    "use_cache": boolean,
    "bos_token_id": _token,
    "eos_token_id": _token,
    "scale_attn_by_inverse_layer_idx": boolean,
    "reorder_and_upcast_attn": boolean,
    "classifier_dropout": optional(_probability),
    "hidden_dropout": optional(_probability),
    "summary_last_dropout": optional(_probability),
    "output_hidden_states": boolean,
    "output_attentions": boolean,
    "return_dict": boolean,
    "torchscript": boolean,
    "dtype": optional(dtype_name),
    "pruned_heads": pruned_heads,
    "tie_word_embeddings": boolean,
    "add_cross_attention": boolean,
    "problem_type": optional(choice(PROBLEM_TYPES)),
    "pad_token_id": _token,
    "sep_token_id": _token,
    "decoder_start_token_id": _token,
    "id2label": id2label,
    "label2id": label2id,
}
