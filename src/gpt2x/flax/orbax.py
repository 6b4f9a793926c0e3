"""Orbax checkpoints of Flax models: a folder with config.json and the parameters in `params`.

Orbax adds sharding to `save_pretrained`: every device writes and reads its own part.
`from_pretrained` and `gpt2x convert` read these folders too.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array

from gpt2x.config import GPT2Config
from gpt2x.config.generation import GENERATION_CONFIG_NAME
from gpt2x.errors import InvalidInputError, MissingBackendError
from gpt2x.flax.parameters import ParameterPath, check_params, flatten, unflatten
from gpt2x.flax.pretrained import FlaxGPT2PreTrainedModel
from gpt2x.formats.flax.orbax import PARAMS_NAME, open_arrays
from gpt2x.formats.registry import weights_formats
from gpt2x.generation import GenerationConfig
from gpt2x.models.saving import warn_of_weights_read_first
from gpt2x.storage.atomic import atomic_folder

Model = TypeVar("Model", bound=FlaxGPT2PreTrainedModel)


def save_orbax(model: FlaxGPT2PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Write a model's config and parameters; they appear whole or not at all.

    If several processes write their parts of a model, the config may appear before the parameters.

    Raises:
        InvalidInputError: if the folder already contains parameters, or the model has an adapter.
        MissingBackendError: if Orbax is not installed.
    """
    model._check_whole("an Orbax checkpoint")
    path = Path(folder).expanduser().absolute()
    if (path / PARAMS_NAME).exists():
        raise InvalidInputError(
            f"{str(path)!r} already contains parameters; choose another folder."
        )
    if jax.process_count() > 1:  # all of them write into the same folder
        _write(model, path)
    else:
        with atomic_folder(path) as work:
            _write(model, work)
    warn_of_weights_read_first(path, weights_formats())


def _write(model: FlaxGPT2PreTrainedModel, path: Path) -> None:
    config = copy.deepcopy(model.config)
    config.architectures = [model.head.architecture]
    config.dtype = model.param_dtype.name
    config.save_pretrained(path)
    if model.can_generate():
        model.generation_config.save_pretrained(path)
    # Last, and whole or not at all: Orbax too writes to another name and renames.
    save_params(path / PARAMS_NAME, dict(flatten(model.params)))


def load_orbax(
    kind: type[Model],
    folder: str | os.PathLike[str],
    *,
    shardings: Any = None,
    **options: Any,
) -> Model:
    """Load a model that `save_orbax` wrote.

    Args:
        kind: the class of the model.
        folder: the folder.
        shardings: a tree of shardings as `gpt2x.flax.sharding.param_shardings` returns; default:
            all on the first device.
        **options: of the model's constructor (`dtype`, `param_dtype` ...).

    Raises:
        CheckpointError: if config or parameters are missing or damaged.
        InvalidInputError: if the parameters do not match the class and the config.
        MissingBackendError: if Orbax is not installed.
    """
    path = Path(folder).expanduser().absolute()
    model = kind(GPT2Config.from_pretrained(path), _do_init=False, **options)
    if model.can_generate() and (path / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    shapes = model.params_shape_tree
    check_params(open_arrays(path / PARAMS_NAME), dict(flatten(shapes)))
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: first, shapes)
    wanted = jax.tree.map(
        lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    with _library().StandardCheckpointer() as checkpointer:
        return model.with_params(checkpointer.restore(path / PARAMS_NAME, wanted))


def save_params(folder: Path, params: Mapping[ParameterPath, Array | np.ndarray]) -> None:
    """Write a folder of parameters by path; it appears whole or not at all.

    Raises MissingBackendError if Orbax is not installed.
    """
    with _library().StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), unflatten(params))


def _library() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise MissingBackendError(
            "Orbax checkpoints need orbax-checkpoint; install it with: pip install orbax-checkpoint"
        ) from error
    return orbax.checkpoint
