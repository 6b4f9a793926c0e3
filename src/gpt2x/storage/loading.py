"""The keywords that every `from_pretrained` takes: of configs, of tokenizers and of models.

Scripts for transformers pass the same keywords to all classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from gpt2x.errors import InvalidInputError

#: Where files are found: arguments of `gpt2x.storage.hub.ModelFiles`.
WHERE = (
    "revision",
    "subfolder",
    "cache_dir",
    "token",
    "local_files_only",
    "force_download",
)

# These change nothing here: no file can run code, and every download resumes.
_WITHOUT_EFFECT = ("trust_remote_code", "resume_download", "_from_auto", "_from_pipeline")

# Of models alone, which load frugally and initialise nothing twice in any case.
_WITHOUT_EFFECT_ON_MODELS = ("low_cpu_mem_usage", "_fast_init", "weights_only", "_commit_hash")

_ONE_DEVICE = "a GPT-2 fits on one device"
_NOT_QUANTISED = "models are not quantised"

# These ask for what is not here; beside each stands what to do instead. One that is None or False
# asks for nothing and is allowed.
_SWITCHED_OFF = {"proxies": "set the environment variable HTTPS_PROXY"}
_SWITCHED_OFF_FOR_MODELS = {
    "load_in_8bit": _NOT_QUANTISED,
    "load_in_4bit": _NOT_QUANTISED,
    "quantization_config": _NOT_QUANTISED,
    "max_memory": _ONE_DEVICE,
    "offload_folder": _ONE_DEVICE,
    "offload_state_dict": _ONE_DEVICE,
    "tp_plan": _ONE_DEVICE,
    "adapter_kwargs": "peft.PeftModel.from_pretrained loads adapters",
}


def take_where(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords that all classes share out of `kwargs`; return those of `WHERE`.

    Raises:
        InvalidInputError: if an option asks for what is not here.
    """
    _drop(kwargs, _WITHOUT_EFFECT, _SWITCHED_OFF)
    where = {name: kwargs.pop(name) for name in WHERE if name in kwargs}
    if "use_auth_token" in kwargs:
        older = kwargs.pop("use_auth_token")
        if older is not None:
            warnings.warn("use_auth_token= is now called token=.", FutureWarning, stacklevel=4)
            where["token"] = older if where.get("token") is None else where["token"]
    return where


def drop_model_options(kwargs: dict[str, Any]) -> None:
    """Remove the options of models that have no effect from `kwargs`.

    Raises:
        InvalidInputError: if an option asks for something that is not available.
    """
    _drop(kwargs, _WITHOUT_EFFECT_ON_MODELS, _SWITCHED_OFF_FOR_MODELS)


def _drop(
    kwargs: dict[str, Any], without_effect: Iterable[str], switched_off: dict[str, str]
) -> None:
    for name in without_effect:
        kwargs.pop(name, None)
    for name, advice in switched_off.items():
        if kwargs.pop(name, None):
            raise InvalidInputError(f"{name}= is not available: {advice}.")
