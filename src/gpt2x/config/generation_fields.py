"""The fields of a `GenerationConfig`: their defaults and their checks.

Source of names and defaults: transformers 4.57, `GenerationConfig`.
"""

from __future__ import annotations

from typing import Any

from gpt2x.config.checks import Check, boolean, choice, integer, number, optional, token_ids
from gpt2x.config.compilation import compilation
from gpt2x.config.watermarking import watermarking
from gpt2x.errors import InvalidInputError

#: Every field with its default, in the order in which transformers documents them.
DEFAULTS: dict[str, Any] = {
    # length
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "early_stopping": False,
    "max_time": None,
    "stop_strings": None,
    # strategy
    "do_sample": False,
    "num_beams": 1,
    # cache
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "return_legacy_cache": None,
    "prefill_chunk_size": None,
    # scores
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "renormalize_logits": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "token_healing": False,
    "guidance_scale": None,
    "watermarking_config": None,
    # output
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": None,
    "return_dict_in_generate": False,
    # special tokens
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "encoder_no_repeat_ngram_size": 0,
    "decoder_start_token_id": None,
    # assisted generation
    "is_assistant": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "prompt_lookup_num_tokens": None,
    "max_matching_ngram_size": None,
    "assistant_early_exit": None,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    # compilation
    "compile_config": None,
    "disable_compile": False,
    # strategies that transformers has moved to its hub
    "low_memory": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "constraints": None,
    "force_words_ids": None,
}

#: The values of `cache_implementation` in transformers. gpt2x has a single cache; in PyTorch
#: "static" gives it a size that stays the same.
CACHE_IMPLEMENTATIONS = (
    "dynamic",
    "dynamic_full",
    "offloaded",
    "quantized",
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
)

#: Fields for which None means "off", because the default or another value differs from "off".
#: For every other field, None means the default.
NONE_IS_OFF = frozenset({"temperature", "top_k", "top_p", "typical_p"})

#: Fields that say how tokens are drawn.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)

OUTPUT_FLAGS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")

#: Arguments of models that `generate` accepts, since callers often pass a whole batch, but does not
#: use: it needs no loss and decides itself which logits it needs. The last three are arguments of
#: transformers' `generate`, of which `generate` refuses those that ask for something.
UNUSED_ARGUMENTS = (
    "labels",
    "logits_to_keep",
    "assistant_tokenizer",
    "synced_gpus",
    "trust_remote_code",
)

#: Arguments of `generate` that are not part of a config.
GENERATE_ARGUMENTS = (
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "use_model_defaults",
    "seed",
)


def early_stopping(name: str, value: Any) -> bool | str:
    """Check for True, False or "never"."""
    if value is True or value is False or value == "never":
        return value
    raise InvalidInputError(f"{name} must be True, False or 'never'; got {value!r}.")


def strings(name: str, value: Any) -> str | list[str]:
    """Check for a string that is not empty, or several."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):
        raise InvalidInputError(f"{name} must be a string or a list of strings; got {value!r}.")
    return value if isinstance(value, str) else list(items)


#: The check of each field that has one. Options of processors are checked when the processors are
#: built, so that an unused value cannot fail.
CHECKS: dict[str, Check] = {
    "max_length": integer(1),
    "max_new_tokens": optional(integer(1)),
    "min_length": integer(0),
    "min_new_tokens": optional(integer(0)),
    "early_stopping": early_stopping,
    "max_time": optional(number(0)),
    "stop_strings": optional(strings),
    "do_sample": boolean,
    "num_beams": integer(1),
    "num_beam_groups": integer(1),
    "diversity_penalty": number(0),
    "use_cache": boolean,
    "cache_implementation": optional(choice(CACHE_IMPLEMENTATIONS)),
    "num_return_sequences": integer(1),
    "output_attentions": boolean,
    "output_hidden_states": boolean,
    "output_scores": boolean,
    "output_logits": optional(boolean),
    "return_dict_in_generate": boolean,
    "pad_token_id": optional(token_ids),
    "bos_token_id": optional(token_ids),
    "eos_token_id": optional(token_ids),
    "no_repeat_ngram_size": integer(0),
    "encoder_no_repeat_ngram_size": integer(0),
    "watermarking_config": optional(watermarking),
    "compile_config": optional(compilation),
    "disable_compile": boolean,
    "num_assistant_tokens": integer(1),
    "num_assistant_tokens_schedule": choice(("constant", "heuristic", "heuristic_transient")),
    "assistant_confidence_threshold": number(0, 1),
    "assistant_early_exit": optional(integer(1)),
    "prompt_lookup_num_tokens": optional(integer(1)),
    "max_matching_ngram_size": optional(integer(1)),
    "penalty_alpha": optional(number(0)),
}
