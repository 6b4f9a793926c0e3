"""Attributes that transformers' classes have and these lack, with what to do instead.

A name listed here raises an AttributeError that says so, in place of Python's bare one; to
`hasattr` it is missing, as code that probes for features expects.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

_ONE_ADAPTER = "a model has one adapter, see docs/adapters.md; peft.get_peft_model manages several"
_DEVICES = "GPT-2 fits on one device"
_DECODING = "generate does all decoding, see docs/generation.md"
_MASKS = "the model takes masks as they are, see docs/compatibility.md"
_NO_BIAS = "GPT-2's output layer has no bias"
_CODE = "files of gpt2x hold no code"
_FUSED = 'attention is fused as it is (attn_implementation="sdpa")'
_RESIZE = "a GPT-2 cannot learn positions after the fact; set n_positions before training"

#: Attributes of transformers' models.
MODEL: dict[str, str] = {
    "prune_heads": "silence heads with head_mask; checkpoints that were pruned load",
    **dict.fromkeys(("parallelize", "deparallelize", "tensor_parallel"), _DEVICES),
    **dict.fromkeys(("set_adapter", "delete_adapter", "active_adapters"), _ONE_ADAPTER),
    **dict.fromkeys(("enable_adapters", "disable_adapters"), _ONE_ADAPTER),
    **dict.fromkeys(("to_bettertransformer", "reverse_bettertransformer", "kernelize"), _FUSED),
    **dict.fromkeys(("generate_batch", "init_continuous_batching"), _DECODING),
    **dict.fromkeys(("greedy_search", "sample", "beam_search", "contrastive_search"), _DECODING),
    **dict.fromkeys(("get_head_mask", "invert_attention_mask"), _MASKS),
    "get_extended_attention_mask": _MASKS,
    **dict.fromkeys(("resize_position_embeddings", "get_position_embeddings"), _RESIZE),
    **dict.fromkeys(("get_decoder", "set_decoder"), "the body is base_model"),
    "load_tf_weights": "from_pretrained reads TensorFlow checkpoints",
    "register_for_auto_class": _CODE,
    "dequantize": "models are not quantised",
    **dict.fromkeys(("tp_plan", "tp_size", "pp_plan", "model_parallel", "device_map"), _DEVICES),
    **dict.fromkeys(("supports_tp_plan", "supports_pp_plan"), _DEVICES),
    **dict.fromkeys(("loss_function", "loss_type"), "pass labels= to the model"),
    **dict.fromkeys(("initialize_weights", "smart_apply"), "init_weights draws initial weights"),
    **dict.fromkeys(
        ("add_memory_hooks", "reset_memory_hooks_state"), "use the framework's profiler"
    ),
    "add_model_tags": "write them into the folder's README.md, the model card",
    "load_custom_generate": _CODE,
    "get_adapter_state_dict": "save_adapter writes it",
    "use_kernels": _FUSED,
}

#: Attributes of transformers' TensorFlow models.
TF_MODEL: dict[str, str] = MODEL | {
    **dict.fromkeys(("get_bias", "set_bias", "get_prefix_bias_name"), _NO_BIAS),
    "get_output_layer_with_bias": "see get_output_embeddings",
    "hf_compute_loss": "pass labels= to the model, or compile it without a loss",
    "create_model_card": "push_to_hub writes one",
}

#: Attributes of transformers' Flax models, and of the Linen modules in them.
FLAX_MODEL: dict[str, str] = MODEL | {
    "apply": "call the model itself, with params= and dropout_rng=",
    "init": "init_weights draws parameters",
    "module_class": "a model is its own module",
    **dict.fromkeys(
        ("load_flax_weights", "load_flax_sharded_weights"), "from_pretrained reads every format"
    ),
}

#: Attributes of transformers' tokenizers.
TOKENIZER: dict[str, str] = {
    "as_target_tokenizer": "pass text_target= to the tokenizer",
    "prepare_seq2seq_batch": "pass text_target= to the tokenizer",
    "set_truncation_and_padding": "pass truncation= and padding= to each call",
    "register_for_auto_class": _CODE,
}


class Unavailable:
    """Raises in place of an attribute of transformers' class, and says what to do instead."""

    def __init__(self, name: str, advice: str) -> None:
        self.name = name
        self.advice = advice

    def __get__(self, instance: Any, owner: type) -> Any:
        for kind in owner.__mro__:  # a base of a user's own class may define the name
            found = vars(kind).get(self.name, self)
            if not isinstance(found, Unavailable):
                return found.__get__(instance, owner) if hasattr(found, "__get__") else found
        raise AttributeError(
            f"{owner.__name__} has no {self.name!r}, which transformers has: {self.advice}."
        )


class LacksNames:
    """Base of classes that say what to do instead of the names in their `_unavailable`.

    If a derived class or an instance defines such a name, its definition counts.
    """

    _unavailable: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, advice in vars(cls).get("_unavailable", {}).items():
            if name not in vars(cls):
                setattr(cls, name, Unavailable(name, advice))

    def __dir__(self) -> list[str]:
        lacking = (name for name in self._unavailable if not hasattr(self, name))
        return sorted({*super().__dir__()}.difference(lacking))


def explain(owner: type, name: str) -> None:
    """Raise an AttributeError that says what to do instead, if `LacksNames` says so of `name`.

    For a `__getattr__`: Python calls it when a descriptor has raised, and shows its error instead.

    Args:
        owner: the class.
        name: the attribute.
    """
    found = inspect.getattr_static(owner, name, None)
    if isinstance(found, Unavailable):
        found.__get__(None, owner)
