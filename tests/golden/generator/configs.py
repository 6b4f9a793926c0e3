"""Configs as transformers writes and reads them; run under release 4 and again under 5."""

from pathlib import Path
from typing import Any

import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from .files import write_json
from .models import SMALL

MAJOR = int(transformers.__version__.split(".")[0])

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "small": {**SMALL, "tie_word_embeddings": False},
    "flags": {
        **SMALL,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
        "add_cross_attention": True,
        "pad_token_id": 0,
    },
    "labels": {
        **SMALL,
        "id2label": {0: "bad", 1: "good", 2: "unsure"},
        "label2id": {"bad": 0, "good": 1, "unsure": 2},
        "problem_type": "single_label_classification",
    },
    "aliases": {
        "hidden_size": 12,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "max_position_embeddings": 16,
        "own_field": {"kept": [1, 2]},
    },
}
GENERATION_CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "sampling": {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 0.95,
        "min_p": 0.05,
        "max_new_tokens": 32,
        "eos_token_id": [50256, 198],
        "pad_token_id": 50256,
    },
    "beams": {
        "num_beams": 4,
        "num_return_sequences": 2,
        "early_stopping": "never",
        "length_penalty": 0.8,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[1], [2, 3]],
        "sequence_bias": [[[5, 6], -2.0]],
        "max_length": 64,
    },
}

# Files as found on the hub, of releases long past.
HUB: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "release_2": {
        "_num_labels": 1,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "finetuning_task": None,
        "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02,
        "label2id": {"LABEL_0": 0},
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 512,
        "n_embd": 96,
        "n_head": 6,
        "n_layer": 3,
        "n_positions": 512,
        "num_labels": 1,
        "output_attentions": False,
        "output_hidden_states": False,
        "output_past": True,
        "pruned_heads": {},
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torchscript": False,
        "use_bfloat16": False,
        "vocab_size": 1000,
    },
    "half_precision": {
        "_name_or_path": "somebody/gpt2-small-half",
        "architectures": ["GPT2LMHeadModel"],
        "gradient_checkpointing": False,
        "model_type": "gpt2",
        "n_ctx": 256,
        "n_embd": 48,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 256,
        "scale_attn_weights": True,
        "torch_dtype": "float16",
        "transformers_version": "4.11.3",
        "use_cache": False,
        "vocab_size": 640,
    },
}
HUB_GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "transformers_version": "4.26.0.dev0",
}


def write_configs(out: Path) -> None:
    """``configs/hub`` and, by the release that runs, ``configs/transformers_4`` or ``_5``."""
    hub = out / "configs/hub"
    write_json(hub / "generation_config.json", HUB_GENERATION)
    folder = out / f"configs/transformers_{MAJOR}"
    for name, values in HUB.items():
        write_json(hub / f"{name}.json", values)
        if MAJOR == 4:
            read = GPT2Config.from_json_file(hub / f"{name}.json").to_dict()
            write_json(folder / "read" / f"{name}.json", read)
    for name, values in CONFIGS.items():
        GPT2Config(**values).save_pretrained(folder / name)
        write_json(folder / name / "to_dict.json", GPT2Config(**values).to_dict())
    for name, values in GENERATION_CONFIGS.items():
        generation = GenerationConfig(**values)
        generation.save_pretrained(folder / f"generation_{name}")
        write_json(folder / f"generation_{name}" / "to_dict.json", generation.to_dict())
    model = GPT2LMHeadModel(GPT2Config(**SMALL))
    model.config.save_pretrained(folder / "model")
    model.generation_config.save_pretrained(folder / "model")
