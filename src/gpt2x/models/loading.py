"""The part of `from_pretrained` that needs no framework.

`resolve` returns the config and the open checkpoint for a name and transformers' keywords. Its
`plan` matches tensors with parameters, and finds missing and left-over ones. A backend only makes
the model and moves arrays::

    with resolve(cls.__name__, "gpt2", revision="main") as source:
        model = cls(source.config)
        plan = source.plan(cls.head, owner=cls.__name__)
        for name, array in plan.arrays(source.dtype):
            ...  # `array` is in canonical layout; PYTORCH, TENSORFLOW or FLAX of weights.py maps it
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpt2x.checkpoint.adapted import give_head
from gpt2x.checkpoint.adapter import base_of_adapter
from gpt2x.config import GPT2Config
from gpt2x.config.generation import GENERATION_CONFIG_NAME, GenerationConfig
from gpt2x.config.model_fields import dtype_name
from gpt2x.errors import CheckpointError, InvalidInputError, unknown_arguments
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.opening import fetch_checkpoint
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.loading import WHERE, drop_model_options, take_where
from gpt2x.weights.infer import infer_config
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import LoadPlan, check_depth, plan_load
from gpt2x.weights.pruning import restore_heads


@dataclass
class Pretrained:
    """A model that was found by its name: config and open weights. A context manager.

    Attributes:
        name: the given folder or hub name.
        config: its config, with the caller's overrides; pruned heads are restored, as zeros.
        checkpoint: its weights.
        dtype: name of the dtype for the model.
        files: finds its other files (the tokenizer's); None for a state dict.
        generation_config: path of its generation_config.json, or None.
        adapter: the arguments of `load_adapter`, if the name is that of an adapter of this model.
    """

    name: str
    config: GPT2Config
    checkpoint: Checkpoint
    dtype: str
    files: ModelFiles | None = None
    generation_config: Path | None = None
    adapter: dict[str, Any] | None = None

    @property
    def plan(self) -> Callable[..., LoadPlan]:
        """`plan_load` for its checkpoint and config; a partial, so that warnings name the caller of
        the caller, as there.
        """
        return functools.partial(plan_load, self.checkpoint, self.config, name=self.name)

    def read_generation_config(self) -> GenerationConfig | None:
        """Return the config of its generation_config.json; None without one."""
        path = self.generation_config
        return None if path is None else GenerationConfig.from_pretrained(path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.checkpoint.close()


def resolve(
    owner: str,
    name_or_path: str | os.PathLike[str],
    *,
    config: GPT2Config | str | os.PathLike[str] | None = None,
    config_class: type[GPT2Config] = GPT2Config,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    from_tf: bool = False,
    from_flax: bool = False,
    from_pt: bool = False,
    gguf_file: str | None = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    attn_implementation: str | None = None,
    **keywords: Any,
) -> Pretrained:
    """Find a model by folder or hub name; read its config and open its weights.

    The folder of an adapter without weights of a model stands for the model that the adapter names.

    The arguments are those of transformers; `gpt2x.storage.loading.WHERE` names those that say
    where to look. The format is detected: `from_tf` and `from_flax` only search their format first,
    and `from_pt` has no effect. `gguf_file` is the file to read in a folder of several. `dtype`
    (older name `torch_dtype`) is a dtype of any framework, or its name; ``"auto"`` is that of the
    config, or else of the weights; the default is float32, as in transformers 4. Other keywords are
    fields of the config to override.

    Args:
        owner: name of the calling class, for messages.
        name_or_path: folder, checkpoint file, or name on the hub.
        config: a config, or the path or name to read it from, in place of the model's own.
        config_class: class of the result's config, unless `config` is an object.

    Raises:
        CheckpointError: if the model, its config or its weights cannot be found or read.
        InvalidInputError: for a keyword that is neither an argument nor a field, or a bad value.
    """
    drop_model_options(keywords)
    where = take_where(keywords)
    subfolder = where.pop("subfolder", "")
    if dtype is not None and torch_dtype is not None:
        raise InvalidInputError("dtype= and torch_dtype= are the same argument; pass one of them.")
    name, adapter = os.fspath(name_or_path), None
    fetch = functools.partial(
        fetch_checkpoint,
        variant=variant,
        use_safetensors=use_safetensors,
        first="tf-h5" if from_tf else "flax-msgpack" if from_flax else None,
        file=gguf_file,
    )
    try:
        files, checkpoint = fetch(name, subfolder=subfolder, **where)
    except CheckpointError:
        base = base_of_adapter(name, subfolder=subfolder, **where)
        if base is None:
            raise
        adapter = {"peft_model_id": name, "subfolder": subfolder, **where}
        name, where = base, {n: value for n, value in where.items() if n != "revision"}
        files, checkpoint = fetch(name, **where)
    try:
        if adapter is not None:
            given = {n: value for n, value in adapter.items() if n != "peft_model_id"}
            give_head(checkpoint, adapter["peft_model_id"], **given)
        if isinstance(config, GPT2Config):
            config_class = type(config)
        found = _find_config(owner, name, checkpoint, config, config_class, where, keywords)
        if attn_implementation is not None:
            found._attn_implementation = attn_implementation
        check_depth(found, checkpoint, name)
        _restore_pruned(found, checkpoint)
        return Pretrained(
            name=name,
            config=found,
            checkpoint=checkpoint,
            dtype=_wanted_dtype(torch_dtype if dtype is None else dtype, found, checkpoint),
            files=files,
            generation_config=files.find(GENERATION_CONFIG_NAME),
            adapter=adapter,
        )
    except BaseException:
        checkpoint.close()
        raise


def from_tensors(
    tensors: Mapping[str, LazyTensor],
    config: Any,
    *,
    dtype: Any = None,
    torch_dtype: Any = None,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> Pretrained:
    """Return the model of a state dict as `resolve` does: canonical name -> tensor.

    Raises InvalidInputError without a config, or for a keyword that is not a field of it.
    """
    if not isinstance(config, GPT2Config):
        raise InvalidInputError("A state_dict needs config=, a GPT2Config, beside it.")
    take_where(overrides)
    dtype = dtype or torch_dtype or "float32"
    made = GPT2Config.from_dict(config.to_dict(), dtype=dtype, **overrides)
    if attn_implementation is not None:
        made._attn_implementation = attn_implementation
    checkpoint = Checkpoint("state_dict", Path(), tensors)
    _restore_pruned(made, checkpoint)
    return Pretrained("the checkpoint", made, checkpoint, made.dtype)


def take_constructor_arguments(
    cls: Any, base: Any, kwargs: dict[str, Any], has_config: bool
) -> dict[str, Any]:
    """Take the arguments of a user's own constructor out of `from_pretrained`'s.

    Args:
        cls: the class to be loaded, with a `config_class`.
        base: our class; arguments of its constructor are not the user's.
        kwargs: those of `from_pretrained`; the returned ones are removed.
        has_config: whether the config is given as an object; otherwise its fields have precedence.
    """
    known = inspect.signature(base.__init__).parameters
    fields = None if has_config else cls.config_class()
    return {
        name: kwargs.pop(name)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name in kwargs
        and name not in known
        and parameter.kind is not parameter.VAR_KEYWORD  # a `**kwargs`, not an argument
        and not hasattr(fields, name)
    }


def _find_config(
    owner: str,
    name: str,
    checkpoint: Checkpoint,
    config: GPT2Config | str | os.PathLike[str] | None,
    config_class: type[GPT2Config],
    where: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> GPT2Config:
    if isinstance(config, GPT2Config):
        base = config.to_dict()
    elif config is not None:
        base, _ = config_class.get_config_dict(config, **where)
    elif checkpoint.config is not None:
        base = checkpoint.config
    else:
        n_head = overrides.get("n_head", overrides.get("num_attention_heads"))
        base = infer_config(checkpoint, n_head)
        warnings.warn(
            f"{name!r} has no config.json; its config was inferred from the weights' shapes, "
            f"with {base['n_head']} heads.",
            stacklevel=4,
        )
    found, unused = config_class.from_dict(
        copy.deepcopy(base), return_unused_kwargs=True, **overrides
    )
    if unused:
        allowed = [*_ARGUMENTS, "num_labels", *found]
        raise InvalidInputError(unknown_arguments(f"{owner}.from_pretrained", unused, allowed))
    found.name_or_path = name
    if isinstance(config, GPT2Config):
        found._attn_implementation = config._attn_implementation  # not a field, so not in to_dict
    return found


def _wanted_dtype(dtype: Any, config: GPT2Config, checkpoint: Checkpoint) -> str:
    if dtype is None:
        return "float32"
    if dtype != "auto":
        return dtype_name("dtype", dtype)
    if config.dtype is not None:
        return config.dtype
    stored = next((tensor.dtype.name for tensor in checkpoint.values()), "float32")
    return stored if stored in ("float16", "bfloat16", "float64") else "float32"


def _restore_pruned(config: GPT2Config, checkpoint: Checkpoint) -> None:
    checkpoint.replace(restore_heads(checkpoint, config))
    config.pruned_heads = {}


_ARGUMENTS = (
    *WHERE,
    *(name for name in resolve.__kwdefaults__ or {} if name not in ("torch_dtype", "config_class")),
    *("ignore_mismatched_sizes", "output_loading_info", "strict"),
)
