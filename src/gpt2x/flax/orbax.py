"""Orbax checkpoints of Flax models: a folder with config.json and the parameters in `params`.

Needs `orbax-checkpoint`. What Orbax adds to `save_pretrained` is sharding: every device writes and
reads its own part.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import jax

from gpt2x.config import GPT2Config
from gpt2x.errors import MissingBackendError
from gpt2x.flax.pretrained import FlaxGPT2PreTrainedModel

Model = TypeVar("Model", bound=FlaxGPT2PreTrainedModel)

_PARAMS = "params"


def save_orbax(model: FlaxGPT2PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Write a model's config and parameters.

    Raises:
        MissingBackendError: if Orbax is not installed.
        ValueError: by Orbax, if the folder holds parameters already.
    """
    path = Path(folder).absolute()
    with _checkpointer() as checkpointer:
        checkpointer.save(path / _PARAMS, model.params)
    model.config.save_pretrained(path)


def load_orbax(
    kind: type[Model],
    folder: str | os.PathLike[str],
    *,
    shardings: Any = None,
    **options: Any,
) -> Model:
    """Read what `save_orbax` wrote.

    Args:
        kind: the class of the model.
        folder: the folder.
        shardings: a tree of shardings as `gpt2x.flax.sharding.param_shardings` returns; default:
            all on the first device.
        **options: of the model's constructor (`dtype`, `param_dtype` ...).

    Raises:
        CheckpointError: if there is no config.
        MissingBackendError: if Orbax is not installed.
    """
    path = Path(folder).absolute()
    model = kind(GPT2Config.from_pretrained(path), _do_init=False, **options)
    shapes = model.params_shape_tree
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: first, shapes)
    wanted = jax.tree.map(
        lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    with _checkpointer() as checkpointer:
        return model.with_params(checkpointer.restore(path / _PARAMS, wanted))


def _checkpointer() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise MissingBackendError(
            "Orbax checkpoints need orbax-checkpoint; install it with: pip install orbax-checkpoint"
        ) from error
    return orbax.checkpoint.StandardCheckpointer()
