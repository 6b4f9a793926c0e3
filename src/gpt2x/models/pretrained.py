"""`from_pretrained` and `save_pretrained`, as far as they need no framework.

The three backends share it: `resolve` turns a name and transformers' keywords into a config and an
open checkpoint, `plan_load` decides which tensor goes where and what is missing or left over,
`save_folder` writes a folder that transformers reads. A backend only makes the model and moves
arrays::

    with resolve(cls.__name__, "gpt2", revision="main") as source:
        model = cls(source.config)
        plan = plan_load(source.checkpoint, source.config, cls.head, owner=cls.__name__)
        for name, array in plan.arrays(source.dtype):
            ...  # `array` is in canonical layout; PYTORCH, TENSORFLOW or FLAX of weights.py maps it
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np

from gpt2x.checkpoint.writing import write_weights
from gpt2x.config import GPT2Config
from gpt2x.config.generation import GENERATION_CONFIG_NAME
from gpt2x.config.model_fields import dtype_name
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.known import FLAX as FLAX_FILE
from gpt2x.formats.known import PYTORCH as PYTORCH_FILE
from gpt2x.formats.known import SAFETENSORS as SAFETENSORS_FILE
from gpt2x.formats.known import TENSORFLOW as TENSORFLOW_FILE
from gpt2x.formats.known import WeightsFile
from gpt2x.formats.opening import open_model
from gpt2x.storage.atomic import atomic_folder
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.loading import drop_model_options, take_where
from gpt2x.weights.infer import infer_config
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import LoadingInfo, LoadPlan, check_depth, numpy_dtype, plan_load
from gpt2x.weights.pruning import restore_heads
from gpt2x.weights.table import Head

__all__ = [
    "LoadPlan",
    "LoadingInfo",
    "Pretrained",
    "numpy_dtype",
    "plan_load",
    "resolve",
    "save_folder",
]


@dataclass
class Pretrained:
    """A model found by name: what it is, and its open weights. A context manager.

    Attributes:
        name: the folder or hub name it was asked for by.
        config: its config, with the caller's overrides; pruned heads are restored, as zeros.
        checkpoint: its weights; None where a state dict was given in their place.
        dtype: name of the dtype that the model is wanted in.
        generation_config: path of its generation_config.json, or None.
        files: where its other files (the tokenizer's) can be found.
    """

    name: str
    config: GPT2Config
    checkpoint: Checkpoint
    dtype: str
    generation_config: Path | None
    files: ModelFiles

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
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    from_tf: bool = False,
    from_flax: bool = False,
    from_pt: bool = False,
    gguf_file: str | None = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    **overrides: Any,
) -> Pretrained:
    """Find a model by folder or hub name; read its config and open its weights.

    The arguments are transformers'. The format is detected: `from_tf` and `from_flax` only look for
    their format first, `from_pt` changes nothing. `gguf_file` names a file to read in a folder of
    several. `dtype` (older name `torch_dtype`) is a dtype of any framework or its name, ``"auto"``
    for that of the config or else of the weights; the default is float32, as in transformers 4.
    Every other keyword is a field of the config to override.

    Args:
        owner: name of the calling class, for messages.
        name_or_path: folder, checkpoint file, or name on the hub.
        config: a config to use, or where to read it, in place of the model's own.
        config_class: class of the result's config, unless `config` is an object, which decides.

    Raises:
        CheckpointError: if the model, its config or its weights cannot be found or read.
        InvalidInputError: for a keyword that is neither an argument nor a field, or a bad value.
    """
    drop_model_options(overrides)
    renamed = take_where(overrides)
    if dtype is not None and torch_dtype is not None:
        raise InvalidInputError("dtype= and torch_dtype= are the same argument; pass one of them.")
    where: dict[str, Any] = {
        "revision": revision,
        "cache_dir": cache_dir,
        "token": renamed.get("token") if token is None else token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    first = TENSORFLOW_FILE if from_tf else FLAX_FILE if from_flax else SAFETENSORS_FILE
    files, checkpoint = open_model(
        os.fspath(name_or_path),
        variant=variant,
        use_safetensors=use_safetensors,
        first=first.format,
        file=gguf_file,
        subfolder=subfolder,
        **where,
    )
    name = os.fspath(name_or_path)
    try:
        if isinstance(config, GPT2Config):
            config_class = type(config)
        found = _find_config(owner, name, checkpoint, config, config_class, where, overrides)
        check_depth(found, checkpoint, name)
        checkpoint.replace(restore_heads(checkpoint, found))
        found.pruned_heads = {}
        return Pretrained(
            name=name,
            config=found,
            checkpoint=checkpoint,
            dtype=_wanted_dtype(torch_dtype if dtype is None else dtype, found, checkpoint),
            generation_config=files.find(GENERATION_CONFIG_NAME),
            files=files,
        )
    except BaseException:
        checkpoint.close()
        raise


def take_constructor_arguments(
    cls: Any, base: Any, kwargs: dict[str, Any], has_config: bool
) -> dict[str, Any]:
    """Take the arguments of a user's own constructor out of `from_pretrained`'s.

    Args:
        cls: the class to be loaded, with a `config_class`.
        base: the class of ours whose constructor has arguments that do not concern the user.
        kwargs: those of `from_pretrained`; what is returned is removed.
        has_config: whether the config is given as an object; else its fields have precedence.
    """
    known = inspect.signature(base.__init__).parameters
    fields = None if has_config else cls.config_class()
    return {
        name: kwargs.pop(name)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name in kwargs
        and name not in known
        and parameter.kind is not parameter.VAR_KEYWORD  # whatever its name, it is not an argument
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
    if isinstance(config, GPT2Config) and "attn_implementation" not in overrides:
        found._attn_implementation = config._attn_implementation  # no field, so not in to_dict
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


def save_folder(
    path: str | os.PathLike[str],
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor | np.ndarray],
    head: Head,
    *,
    generation_config: Any = None,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    others: Mapping[str, LazyTensor] = MappingProxyType({}),
    prefix: bool | None = None,
    architecture: str | None = None,
) -> None:
    """Write a model's folder as transformers writes it; it appears whole or not at all.

    PyTorch's names and layouts, safetensors with ``format: pt``, `architectures` and `dtype` in
    config.json. A tied output layer is left out of safetensors and stands in ``pytorch_model.bin``
    as the embedding once more. Shards of an earlier save are removed.

    Args:
        path: the folder, made if need be.
        config: the model's; is not changed.
        tensors: canonical name -> tensor in canonical layout, read one at a time.
        head: which of the model classes.
        generation_config: a `GenerationConfig`, or None to write none.
        max_shard_size: bytes of weights a file holds at most, or a string such as "5GB".
        safe_serialization: False writes ``pytorch_model.bin``.
        variant: write ``model.VARIANT.safetensors``.
        others: name in the file -> tensor that is not GPT-2's, as a class of a user's own has.
        prefix: put the body's names under ``transformer``; by default where there is a head.
        architecture: name of the model class for config.json; by default transformers' for `head`.

    Raises:
        InvalidInputError: if `path` is a file, an option has an impossible value, or the generation
            config is invalid.
        WeightsError: if the tensors are not those of the config and head.
    """
    lazy = {
        name: tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor)
        for name, tensor in tensors.items()
    }
    plan_load(lazy, config, head, name="the model to save", strict=True)
    if generation_config is not None:
        generation_config.check_before_saving()
    file = SAFETENSORS_FILE if safe_serialization else PYTORCH_FILE
    written = copy.deepcopy(config)
    written.architectures = [architecture or head.architecture]
    written.dtype = lazy["wte.weight"].dtype.name
    stem, _, suffix = file.single(variant).rpartition(".")
    stale = (f"{stem}-*-of-*.{suffix}", file.single(variant), file.index(variant))
    with atomic_folder(path, replaces=stale) as folder:
        write_weights(
            folder,
            lazy,
            config,
            head,
            file.format,
            max_shard_size,
            variant=variant,
            others=others,
            prefix=prefix,
        )
        written.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
    if not safe_serialization:
        warn_of_weights_read_first(Path(path), (SAFETENSORS_FILE,), variant)


def warn_of_weights_read_first(
    path: Path, files: Iterable[WeightsFile], variant: str | None = None
) -> None:
    """Warn if a folder that was saved to holds weights that a reader takes for those just saved."""
    for name in (name for file in files for name in (file.single(variant), file.index(variant))):
        if (path / name).is_file():
            warnings.warn(
                f"{str(path)!r} also holds {name}, which is read first; delete it if it is older.",
                stacklevel=4,
            )


_ARGUMENTS = tuple(
    name for name in resolve.__kwdefaults__ or {} if name not in ("torch_dtype", "config_class")
) + ("ignore_mismatched_sizes", "output_loading_info", "strict", "attn_implementation")


def vocabulary_rows(old: int, new: int | None, pad_to_multiple_of: int | None) -> int:
    """Return how many rows `resize_token_embeddings` gives an embedding of `old` rows.

    That is `new` (None keeps them), rounded up to a multiple. Raises InvalidInputError for what is
    not an integer of at least 1.
    """
    for name, value in (("new_num_tokens", new), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise InvalidInputError(f"{name} must be an integer of at least 1; got {value}.")
    rows, multiple = int(old if new is None else new), int(pad_to_multiple_of or 1)
    return math.ceil(rows / multiple) * multiple
