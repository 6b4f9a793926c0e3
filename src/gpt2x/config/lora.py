"""`LoraConfig`: which layers get a low-rank term, and how large it is.

Source: PEFT, `LoraConfig`; Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"
(arXiv:2106.09685); rank-stabilised scaling, arXiv:2312.03732.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from gpt2x.config.base import JSONConfig
from gpt2x.config.checks import boolean, choice, integer, number, optional
from gpt2x.errors import InvalidInputError
from gpt2x.storage.loading import WHERE, take_where

#: What `target_modules` is for every projection of the blocks.
ALL_LINEAR = "all-linear"

ADAPTER_CONFIG_NAME = "adapter_config.json"

#: What PEFT calls the tasks of models; the class of model that it wraps them in depends on it.
TASK_TYPES = (
    "CAUSAL_LM",
    "SEQ_CLS",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
)

# Fields of PEFT's files that do not change what the model computes.
_WITHOUT_EFFECT = (
    "auto_mapping",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
)

# Other ways in which PEFT draws the first factors; the model's weights stay as they are in these.
_DRAWN = ("gaussian", "orthogonal", "eva")


class LoraConfig(JSONConfig):
    """A LoRA adapter: each layer `W` that it names computes ``x W + scaling * x A B``.

    The fields have PEFT's names, and the file is PEFT's `adapter_config.json`. PEFT's other fields
    must hold what switches them off: DoRA, ranks of single layers, biases and other kinds of
    adapters are not available.

    Args:
        r: the rank, columns of A; at least 1.
        target_modules: names of layers, each matched with the end of a layer's full name
            ("c_attn", "attn.c_proj", "h.0.mlp.c_fc"); or a string: "all-linear" for every
            projection of the blocks, else a regular expression of the whole name. None means
            "c_attn", as PEFT has it for GPT-2.
        lora_alpha: see `scaling`.
        lora_dropout: rate of the dropout of the input of A, from 0 to 1.
        fan_in_fan_out: without effect; a model's adapter is written with True, which PEFT wants for
            weights that are stored (in, out), as GPT-2's are.
        bias: "none".
        use_rslora: divide by the square root of r in place of r.
        modules_to_save: names of layers (matched as those of `target_modules`) that are trained
            and saved as a whole beside the adapter.
        init_lora_weights: False draws B as well, which is 0 otherwise.
        task_type: one of `TASK_TYPES`; by default that of the model.
        base_model_name_or_path: the model that the adapter belongs to; by default the model's name.
        **others: PEFT's other fields, see above.

    Raises:
        InvalidInputError: for an unknown field, or a value that cannot be used.
    """

    _defaults: ClassVar[Mapping[str, Any]] = {}
    _unwritten: ClassVar[tuple[str, ...]] = ()
    _origin: ClassVar[tuple[str, ...]] = ("base_model_name_or_path",)

    def __init__(
        self,
        r: int = 8,
        target_modules: Iterable[str] | str | None = None,
        lora_alpha: float = 8,
        lora_dropout: float = 0.0,
        *,
        fan_in_fan_out: bool = False,
        bias: str = "none",
        use_rslora: bool = False,
        modules_to_save: Iterable[str] | None = None,
        init_lora_weights: bool = True,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        **others: Any,
    ) -> None:
        _refuse(others)
        self.peft_type = "LORA"
        self.r = integer(1)("r", r)
        self.target_modules = _target_modules(target_modules)
        self.lora_alpha = _alpha(lora_alpha)
        self.lora_dropout = number(0, 1)("lora_dropout", lora_dropout)
        self.fan_in_fan_out = boolean("fan_in_fan_out", fan_in_fan_out)
        self.bias = choice(("none",))("bias", bias)
        self.use_rslora = boolean("use_rslora", use_rslora)
        self.modules_to_save = optional(_names)("modules_to_save", modules_to_save)
        self.init_lora_weights = boolean("init_lora_weights", init_lora_weights)
        self.task_type = optional(choice(TASK_TYPES))("task_type", task_type)
        self.base_model_name_or_path = optional(_text)(
            "base_model_name_or_path", base_model_name_or_path
        )

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied with: lora_alpha / r, or with `use_rslora`
        lora_alpha / sqrt(r).
        """
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Self:
        """Build a config from the fields of PEFT's file, or of its `LoraConfig.to_dict`.

        Raises:
            InvalidInputError: if it describes another adapter than LoRA, a field is unknown, or a
                value cannot be used.
        """
        values = {name: value for name, value in config_dict.items() if name != "peft_type"}
        kind = _value_of(config_dict.get("peft_type", "LORA"))
        if kind != "LORA":
            raise InvalidInputError(
                f"The adapter's peft_type is {kind!r}; 'LORA' alone is available here. PEFT itself "
                "runs others, on the PyTorch models."
            )
        values["task_type"] = _value_of(values.get("task_type"))
        drawn = values.pop("init_lora_weights", True)
        if isinstance(drawn, str) and drawn in _DRAWN:
            drawn = True
        return cls(**values, init_lora_weights=drawn)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **where: Any
    ) -> Self:
        """Read the config of an adapter from a folder, a file or the hub.

        Raises:
            CheckpointError: if it cannot be found or read.
            InvalidInputError: as `from_dict`.
        """
        options = take_where(where)
        cls._refuse_unknown(where, WHERE)
        found = cls._read(pretrained_model_name_or_path, ADAPTER_CONFIG_NAME, options)
        return cls.from_dict(found)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> None:
        """Write adapter_config.json into a folder."""
        self._save(save_directory, ADAPTER_CONFIG_NAME, push_to_hub, push_options)


def as_lora_config(config: Any) -> LoraConfig:
    """Return a config of gpt2x for one of gpt2x or of PEFT, or a dictionary of its fields.

    Raises:
        InvalidInputError: if it is none of these, or cannot be used.
    """
    if isinstance(config, LoraConfig):
        return config
    if not isinstance(config, Mapping) and hasattr(config, "peft_type"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise InvalidInputError(
            f"An adapter is described by a LoraConfig; got {type(config).__name__}."
        )
    return LoraConfig.from_dict(config)


def _refuse(others: Mapping[str, Any]) -> None:
    """Raise for fields that would change what the model computes."""
    names = [name for name, value in others.items() if name not in _WITHOUT_EFFECT and value]
    if names:
        fields = ", ".join(f"{name}={others[name]!r}" for name in sorted(names))
        raise InvalidInputError(
            f"LoraConfig got {fields}, which is not available. The fields are r, target_modules, "
            "lora_alpha, lora_dropout, use_rslora, modules_to_save, init_lora_weights, task_type."
        )


def _target_modules(value: Any) -> list[str] | str:
    if value is None:
        return ["c_attn"]
    if isinstance(value, str):
        return _text("target_modules", value)
    names: list[str] = _names("target_modules", value)
    if not names:
        raise InvalidInputError("target_modules must name one layer or more; got none.")
    return names


def _names(name: str, value: Any) -> list[str]:
    """Check for names; sorted if they come without an order, as PEFT has them."""
    is_several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    names: list[Any] = list(value) if is_several else [None]
    if not all(isinstance(one, str) and one for one in names):
        raise InvalidInputError(f"{name} must be a list of names of layers; got {value!r}.")
    return sorted(names) if isinstance(value, set | frozenset) else names


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a string; got {value!r}.")
    return value


def _alpha(value: Any) -> float:
    checked: float = number(0, math.inf)("lora_alpha", value)
    if not math.isfinite(checked):
        raise InvalidInputError(f"lora_alpha must be a finite number; got {value!r}.")
    return int(checked) if checked == int(checked) else checked


def _value_of(kind: Any) -> Any:
    """Return the name behind an enumeration of PEFT's."""
    return getattr(kind, "value", kind)
